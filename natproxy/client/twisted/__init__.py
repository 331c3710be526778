"""The client on a Twisted reactor: the commands of the blocking client, as Deferreds."""

from natproxy.client.twisted.file import RemoteFile
from natproxy.client.twisted.session import Session, connect

__all__ = ["RemoteFile", "Session", "connect"]
