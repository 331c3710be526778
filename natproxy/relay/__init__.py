"""Bytes in motion: a counted body from one transport, or a file, to another.

Callers ask `Relays` to move something and are told how it ended; which way was taken is
nothing they need to know. There is one outgoing side to each connection (`Outflow`), and
three ways to it: copying, which works everywhere; ``splice`` from another socket; and
``sendfile`` from a file. Nothing here knows the protocol's verbs, the NAT table or who
the peers are.
"""

from natproxy.relay.endings import SinkGone, SourceChanged, SourceShort
from natproxy.relay.files import FileRelay, Source
from natproxy.relay.outflow import Outflow, Transport, outflow_of, send_at_once
from natproxy.relay.warmth import PageCache, ReadInThread
from natproxy.relay.ways import Relay, Relays, Way

__all__ = [
    "FileRelay",
    "Outflow",
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
    "outflow_of",
    "send_at_once",
]
