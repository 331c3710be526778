"""The client on a Twisted reactor: what the blocking client returns, as Deferreds."""

from natproxy.client.twisted.session import Client

__all__ = ["Client"]
