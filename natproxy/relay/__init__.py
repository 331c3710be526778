"""Bytes in motion: a counted body from one transport, or a file, to another.

Callers say what to move and are told how it ended; which way was taken is nothing
they need to know. There is one outgoing side to each connection (`Outflow`), a
`TransportRelay` to it from another connection, and a `FileRelay` to it from a file.
Nothing here knows the protocol's verbs, the NAT table or who the peers are.
"""

from natproxy.relay.copying import SourceShort, TransportRelay
from natproxy.relay.files import FileRelay
from natproxy.relay.outflow import Outflow, Transport

__all__ = ["FileRelay", "Outflow", "SourceShort", "Transport", "TransportRelay"]
