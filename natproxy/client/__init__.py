"""The client for programs: blocking sockets, no reactor. For example::

    from natproxy.client import connect

    with connect("files.example:9000") as server:
        for entry in server.ls():
            print(entry.name, entry.metadata.size)
        server.download("image.iso", "/tmp/", verify=True, progress=print)
        with server.open("table.csv") as file:
            header = file.readline()

Every failure is a `ClientError`, whose message names the object and the reason on one line.
Programs with a Twisted reactor use `natproxy.client.twisted` instead.
"""

from natproxy.address import Address
from natproxy.client.blocking.connection import Connection, Reply
from natproxy.client.errors import (
    CannotConnect,
    Changed,
    ClientError,
    ConnectionBroken,
    DeletionRefused,
    DigestMismatch,
    GaveUp,
    Interrupted,
    ListingIncomplete,
    LocalError,
    NotFound,
    NotUnderstood,
    ServerError,
    TooManyEntries,
    Unavailable,
    Unsupported,
    UsageError,
)
from natproxy.client.events import Event, Phase, Progress
from natproxy.client.retry import RetryPolicy
from natproxy.client.session import Session, connect
from natproxy.client.url import parse_server, parse_url

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
    "GaveUp",
    "Interrupted",
    "ListingIncomplete",
    "LocalError",
    "NotFound",
    "NotUnderstood",
    "Phase",
    "Progress",
    "Reply",
    "RetryPolicy",
    "ServerError",
    "Session",
    "TooManyEntries",
    "Unavailable",
    "Unsupported",
    "UsageError",
    "connect",
    "parse_server",
    "parse_url",
]
