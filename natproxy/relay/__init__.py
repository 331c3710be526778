"""Bytes in motion: a counted body from one transport, or a file, to another.

Callers ask `Relays` to move something and are told how it ended; which way was taken is
nothing they need to know. There is one outgoing side to each connection (`Outbound`), and
three ways to it: copying, which works everywhere; ``splice`` from another socket; and
``sendfile`` from a file. Nothing here knows the protocol's verbs, the NAT table or who
the peers are.
"""

from natproxy.relay.choice import Relay, Relays, Way
from natproxy.relay.errors import SinkGone, SourceChanged, SourceShort
from natproxy.relay.outbound import Outbound, Transport, outbound_of, send_at_once
from natproxy.relay.page_cache import PageCache, ReadInThread
from natproxy.relay.sendfile import FileRelay, Source

__all__ = [
    "FileRelay",
    "Outbound",
    "PageCache",
    "ReadInThread",
    "Relay",
    "Relays",
    "SinkGone",
    "Source",
    "SourceChanged",
    "SourceShort",
    "Transport",
    "Way",
    "outbound_of",
    "send_at_once",
]
