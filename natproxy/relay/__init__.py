"""Moving the bodies of replies: from a connection, or from a file, to a connection.

A caller describes a body by a `SocketJob` or a `FileJob`; `Relays` returns the `Relay` that moves
it, and the relay reports its end once. Each connection has one outgoing side, its `Outbound`. A
body gets there by copying, which works everywhere; by ``splice`` from another socket; or by
``sendfile`` from a file. This package does not import the protocol, the NAT table or the daemons.
"""

from natproxy.relay.choice import Method, Relays
from natproxy.relay.job import (
    FileJob,
    PeerGone,
    Relay,
    SocketJob,
    SocketRelay,
    SourceChanged,
    SourceShort,
    Tally,
)
from natproxy.relay.outbound import DIRECT, Outbound, Transport, outbound_of, send_at_once
from natproxy.relay.page_cache import PageCache, ReadInThread

__all__ = [
    "DIRECT",
    "FileJob",
    "Method",
    "Outbound",
    "PageCache",
    "PeerGone",
    "ReadInThread",
    "Relay",
    "Relays",
    "SocketJob",
    "SocketRelay",
    "SourceChanged",
    "SourceShort",
    "Tally",
    "Transport",
    "outbound_of",
    "send_at_once",
]
