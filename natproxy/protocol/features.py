"""The body of a ``FEAT`` reply, and the part of it that a proxy passes on.

The body is a first line ``NATPROXY 2``, then a line for each verb with the arguments that it
takes. A proxy passes on only the verbs and arguments that are in its own table: it cannot find
the end of the reply to any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from natproxy.protocol.replies import ListingBody
from natproxy.protocol.text import WireError
from natproxy.protocol.verbs import AUTH, END, MAX_LINE, VERBS, Command

VIA = b"VIA"
"""The first word of a line with which a proxy names itself."""

OWN_VIA = VIA + b" natproxy/2.1"

_NONCE = re.compile(rb"[0-9a-f]{32}")

MAX_ABILITIES = MAX_LINE
"""Bytes that a proxy accepts of a ``FEAT`` reply's body."""

MAX_ABILITY_LINES = 256
"""Lines that a proxy accepts of a ``FEAT`` reply's body."""


FIRST_LINE = b"NATPROXY 2"
"""The first line of the body of a ``FEAT`` reply."""


class Abilities(NamedTuple):
    """What a server supports beside the verbs of version 1, which every server supports.

    :ivar version: of the protocol: 1 or 2.
    :ivar verbs: the verbs of version 2 in `VERBS`, with the arguments that each takes.
    """

    version: int
    verbs: Mapping[bytes, frozenset[bytes]]

    def supports(self, verb: bytes) -> bool:
        """Return whether the server supports a verb; true for one that is not in `VERBS`."""
        known = VERBS.get(verb)
        return verb in self.verbs or known is None or known.version == 1


VERSION_1 = Abilities(1, {})
"""The abilities of a server of version 1."""


def parse_abilities(body: bytes) -> Abilities:
    """Return the abilities in the body of a ``FEAT`` reply: `VERSION_1` if it is no such body.

    Verbs and arguments that are not in `VERBS` are ignored, and so is ``AUTH``, which is not a verb
    of what is behind a proxy.
    """
    first, *others = body.split(b"\n")
    if first.removesuffix(b"\r") != FIRST_LINE:
        return VERSION_1
    verbs = {b"FEAT": frozenset[bytes]()}
    for line in others:
        word, *arguments = line.split() or (b"",)
        verb = VERBS.get(word)
        if verb is not None and word != AUTH:
            verbs[word] = frozenset(arguments).intersection(verb.keys)
    return Abilities(2, verbs)


def common_abilities(servers: Iterable[Abilities]) -> Abilities | None:
    """Return what all servers support; ``None`` if there are none."""
    common: Abilities | None = None
    for each in servers:
        if common is None:
            common = each
        else:
            verbs = {
                verb: keys & each.verbs[verb]
                for verb, keys in common.verbs.items()
                if verb in each.verbs
            }
            common = Abilities(min(common.version, each.version), verbs)
    return common


def is_loop_probe(command: Command) -> bool:
    """Return whether a command is one by which a proxy finds out if it is its own upstream.

    It is ``VIA`` and a random number. Every proxy sends it on, as each unknown verb, and a file
    server replies that the verb is unknown.
    """
    return command.verb == VIA and _NONCE.fullmatch(command.name) is not None


def relayed_abilities(
    abilities: bytes, auth: bool = False, common: Abilities | None = None
) -> bytes:
    """Return the lines of a ``FEAT`` reply as a proxy passes them on.

    Verbs and arguments that are not in `VERBS` are removed, and so are lines of any other
    kind, except the first line and the ``VIA`` lines of proxies on the way. ``AUTH`` is the
    upstream's own, and removed as well. The proxy's own lines are added at the end.

    :param abilities: the lines of the body, without ``END``.
    :param auth: whether the client may send ``AUTH`` to the proxy.
    :param common: what all upstreams support: other verbs and arguments are removed as well.
    """
    first, *others = abilities.split(b"\n")
    lines = [first.removesuffix(b"\r")]
    via = []
    for line in others:
        word, *arguments = line.split() or (b"",)
        verb = VERBS.get(word)
        if word == VIA:
            via.append(line.removesuffix(b"\r"))
        elif verb is not None and word != AUTH and (common is None or word in common.verbs):
            keys = verb.keys if common is None else common.verbs[word]
            lines.append(b" ".join((word, *(key for key in arguments if key in keys))))
    own = (AUTH,) if auth else ()
    return b"".join(line + b"\n" for line in (*lines, *own, *via, OWN_VIA) if line)


class AbilitiesReader:
    """Reads the body of a ``FEAT`` reply from pieces of any size.

    :param auth: see `relayed_abilities`.
    :param common: likewise.
    """

    def __init__(self, auth: bool = False, common: Abilities | None = None) -> None:
        self._auth = auth
        self._common = common
        self._body = ListingBody()
        self._received = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """Process received bytes.

        :return: the body to pass on, ``END`` included, or ``None`` while it is incomplete.
        :raises WireError: if the body has more than `MAX_ABILITIES` bytes, or more than
            `MAX_ABILITY_LINES` lines.
        """
        body, _ = self._body.take(data)
        self._received += body
        if len(self._received) > MAX_ABILITIES or self._received.count(b"\n") > MAX_ABILITY_LINES:
            raise WireError("reply to FEAT too long")
        if not self._body.complete:
            return None
        listed = bytes(self._received).removesuffix(END + b"\n")
        return relayed_abilities(listed, self._auth, self._common) + END + b"\n"
