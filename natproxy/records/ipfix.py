"""Translations as the events of RFC 8158, with the names of IPFIX's information elements.

The values are those of IANA's registry as they are in an IPFIX message: the time is a number of
milliseconds since the epoch, the event a number, addresses are texts. ``docs/export.md`` has the
table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from natproxy.address import FIRST_STAND_IN_PORT
from natproxy.records.record import Record

TCP = 6


class Element(NamedTuple):
    """An information element.

    :ivar number: its identifier in IANA's registry.
    :ivar of: what its value is here, for the documentation.
    """

    number: int
    of: str


ELEMENTS = {
    "natEvent": Element(230, "create or delete; see below"),
    "observationTimeMilliseconds": Element(323, "`started` or `ended`"),
    "protocolIdentifier": Element(4, "6, TCP"),
    "sourceIPv4Address": Element(8, "`client`"),
    "sourceIPv6Address": Element(27, "`client`"),
    "sourceTransportPort": Element(7, "`client_port`"),
    "postNATSourceIPv4Address": Element(225, "`nat`"),
    "postNATSourceIPv6Address": Element(281, "`nat`"),
    "postNAPTSourceTransportPort": Element(227, "`nat_port`"),
    "postNATDestinationIPv4Address": Element(226, "`upstream`"),
    "postNATDestinationIPv6Address": Element(282, "`upstream`"),
    "postNAPTDestinationTransportPort": Element(228, "`upstream_port`"),
    "responderOctets": Element(232, "`bytes`; of a delete event"),
    "userName": Element(371, "`identity`, if there is one"),
}
"""The information elements, in the order of the columns."""

EVENTS = {
    (4, 4): (4, 5, "NAT44 session create and delete"),
    (6, 4): (6, 7, "NAT64 session create and delete"),
}
"""Numbers of natEvent, by the versions of the client's and the proxy's address."""

OTHER = (1, 2, "NAT translation create and delete (historic)")
"""For pairs of versions that RFC 8158 has no event for."""


def ipfix_events(record: Record) -> Iterator[dict[str, Any]]:
    """Yield the create event and the delete event of a translation.

    An event that is not known is left out: the delete event of a translation that is open or lost,
    and both of a command that failed, which had no translation. Of a record of an event, only the
    event itself is yielded.
    """
    if record.nat is None or record.nat_port is None:
        return
    created, deleted, _ = EVENTS.get((_version(record.client), _version(record.nat)), OTHER)
    if record.started is not None and record.event in (None, "registered"):
        yield _event(record, created, record.started)
    if record.ended is not None and record.event in (None, "removed"):
        members = _event(record, deleted, record.ended)
        if record.bytes is not None:
            members["responderOctets"] = record.bytes
        yield members


def _event(record: Record, number: int, time: int) -> dict[str, Any]:
    """Return the members that both events have, in the order of `ELEMENTS`."""
    members: dict[str, Any] = {
        "natEvent": number,
        "observationTimeMilliseconds": time // 1000,
        "protocolIdentifier": TCP,
    }
    for address, port, host, number_of_port in (
        ("source", "sourceTransportPort", record.client, record.client_port),
        ("postNATSource", "postNAPTSourceTransportPort", record.nat, record.nat_port),
        (
            "postNATDestination",
            "postNAPTDestinationTransportPort",
            record.upstream,
            record.upstream_port,
        ),
    ):
        version = _version(host)
        if version and host is not None:
            # An information element has no zone, and a mapped address is an IPv4 address.
            shown = host.partition("%")[0]
            members[f"{address}IPv{version}Address"] = (
                shown.rpartition(":")[2] if version == 4 else shown
            )
        # A stand-in is the port of no socket.
        if number_of_port is not None and number_of_port < FIRST_STAND_IN_PORT:
            members[port] = number_of_port
    if record.identity is not None:
        members["userName"] = record.identity
    return members


def _version(host: str | None) -> int:
    """Return 4 or 6 for an address; 0 for a UNIX socket or nothing."""
    if host is None or host.startswith("unix"):
        return 0
    if ":" in host:
        return 4 if "." in host and host.lower().startswith("::ffff:") else 6
    return 4 if host.replace(".", "").isdigit() else 0
