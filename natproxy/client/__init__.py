"""The client for programs: blocking sockets, no reactor. For example::

    from natproxy.client import connect

    with connect("files.example:9000") as server:
        for entry in server.ls():
            print(entry.name, entry.metadata.size)
        server.download("image.iso", "/tmp/", verify=True, progress=print)
        with server.open("table.csv") as file:
            header = file.readline()

Every failure is a `ClientError`, whose message names the object and the reason on one line.
Programs with a Twisted reactor use `natproxy.client.twisted` instead. `natproxy.client.control`
reads the translations of a daemon.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.address import Address
    from natproxy.client.authentication import Token
    from natproxy.client.blocking.connection import Connection
    from natproxy.client.blocking.reply import Reply
    from natproxy.client.errors import (
        CannotConnect,
        Changed,
        ClientError,
        ConnectionBroken,
        DeletionRefused,
        DigestMismatch,
        Forbidden,
        GaveUp,
        Interrupted,
        InvalidQuery,
        Limited,
        ListingIncomplete,
        LocalError,
        NoDaemon,
        NotFound,
        NotUnderstood,
        ServerError,
        TLSError,
        TooManyEntries,
        Unauthorized,
        Unavailable,
        Unsupported,
        UsageError,
    )
    from natproxy.client.events import Event, Phase, Progress
    from natproxy.client.retry import RetryPolicy
    from natproxy.client.session import Session, connect
    from natproxy.client.url import Server, parse_server, parse_url
    from natproxy.tls.options import TLSOptions

__all__ = [
    "Address",
    "CannotConnect",
    "Changed",
    "ClientError",
    "Connection",
    "ConnectionBroken",
    "DeletionRefused",
    "DigestMismatch",
    "Event",
    "Forbidden",
    "GaveUp",
    "Interrupted",
    "InvalidQuery",
    "Limited",
    "ListingIncomplete",
    "LocalError",
    "NoDaemon",
    "NotFound",
    "NotUnderstood",
    "Phase",
    "Progress",
    "Reply",
    "RetryPolicy",
    "Server",
    "ServerError",
    "Session",
    "TLSError",
    "TLSOptions",
    "Token",
    "TooManyEntries",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "UsageError",
    "connect",
    "parse_server",
    "parse_url",
]

_MODULES = {
    "Address": "natproxy.address",
    "Connection": "natproxy.client.blocking.connection",
    "Reply": "natproxy.client.blocking.reply",
    "CannotConnect": "natproxy.client.errors",
    "Changed": "natproxy.client.errors",
    "ClientError": "natproxy.client.errors",
    "ConnectionBroken": "natproxy.client.errors",
    "DeletionRefused": "natproxy.client.errors",
    "DigestMismatch": "natproxy.client.errors",
    "Forbidden": "natproxy.client.errors",
    "GaveUp": "natproxy.client.errors",
    "Interrupted": "natproxy.client.errors",
    "InvalidQuery": "natproxy.client.errors",
    "ListingIncomplete": "natproxy.client.errors",
    "LocalError": "natproxy.client.errors",
    "NoDaemon": "natproxy.client.errors",
    "NotFound": "natproxy.client.errors",
    "NotUnderstood": "natproxy.client.errors",
    "ServerError": "natproxy.client.errors",
    "TLSError": "natproxy.client.errors",
    "TooManyEntries": "natproxy.client.errors",
    "Limited": "natproxy.client.errors",
    "Unauthorized": "natproxy.client.errors",
    "Unavailable": "natproxy.client.errors",
    "Unsupported": "natproxy.client.errors",
    "UsageError": "natproxy.client.errors",
    "Token": "natproxy.client.authentication",
    "Event": "natproxy.client.events",
    "Phase": "natproxy.client.events",
    "Progress": "natproxy.client.events",
    "RetryPolicy": "natproxy.client.retry",
    "Session": "natproxy.client.session",
    "connect": "natproxy.client.session",
    "Server": "natproxy.client.url",
    "parse_server": "natproxy.client.url",
    "parse_url": "natproxy.client.url",
    "TLSOptions": "natproxy.tls.options",
}
"""The modules of the names above."""


def __getattr__(name: str) -> object:
    """Import a name when it is used: the errors alone are a tenth of all modules."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    """Return the names of the module, those that have not been imported yet included."""
    return sorted({*globals(), *__all__})
