"""Which ends of an attempt count as a failure of its upstream: no client may take one down."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from twisted.internet import error

from natproxy.nat import Outcome
from natproxy.protocol import MAX_LINE, VERSION_1, Abilities, parse_abilities
from natproxy.relay import PeerGone
from tests.support.doubles import Upstream as Connection
from tests.support.proxies import ProxyCase

ALL = parse_abilities(b"NATPROXY 2\nGET offset length if-match\nHASH offset length alg\nSTAT\n")
HEADER = b"OK 9 offset=0 size=9 mtime=1.0 etag=a\n"
Play = Callable[["FailureCase", Connection], object]


def refuse(reason: Exception) -> Play:
    return lambda case, upstream: upstream.refuse(reason)


def system(code: int) -> Exception:
    return error.getConnectError((code, os.strerror(code)))


def send(*pieces: bytes) -> Play:
    """Accept, send bytes, and close."""

    def play(case: FailureCase, upstream: Connection) -> None:
        upstream.accept()
        for piece in pieces:
            upstream.send(piece)
        if not upstream.wire.aborted:
            upstream.die()

    return play


def silent(*pieces: bytes) -> Play:
    def play(case: FailureCase, upstream: Connection) -> None:
        upstream.accept()
        for piece in pieces:
            upstream.send(piece)
        case.clock.pump([1.0] * 61)

    return play


def paused(case: FailureCase, upstream: Connection) -> None:
    """Be silent while the client does not read."""
    upstream.accept()
    case.wire.fill()
    upstream.send(HEADER + b"1")
    case.clock.pump([1.0] * 61)


def client_goes(*pieces: bytes) -> Play:
    def play(case: FailureCase, upstream: Connection) -> None:
        upstream.accept()
        for piece in pieces:
            upstream.send(piece)
        case.wire.lose(case.protocol)

    return play


def killed(outcome: Outcome) -> Play:
    def play(case: FailureCase, upstream: Connection) -> None:
        upstream.accept()
        (entry,) = list(case.table)
        case.table.cancel(entry, outcome)

    return play


def relay_fails(reason: Exception) -> Play:
    def play(case: FailureCase, upstream: Connection) -> None:
        upstream.accept()
        upstream.send(HEADER + b"1")
        upstream.protocol.relay_ended(reason)  # type: ignore[union-attr]

    return play


def cancelled(case: FailureCase, upstream: Connection) -> None:
    """The client goes before there is a connection."""
    case.wire.lose(case.protocol)


COUNT: dict[str, tuple[bytes, Play, Abilities | None]] = {
    "refused": (b"LIST", refuse(error.ConnectionRefusedError()), None),
    "refused to a verb of no version": (b"WHO", refuse(error.ConnectionRefusedError()), None),
    "not accepted in time": (b"LIST", refuse(error.TimeoutError()), None),
    "no route": (b"LIST", refuse(system(errno.ENETUNREACH)), None),
    "no name": (b"LIST", refuse(error.DNSLookupError()), None),
    "no such socket": (b"LIST", refuse(system(errno.ENOENT)), None),
    "closed": (b"LIST", send(), None),
    "closed on a verb that it supports": (b"GET a", send(), ALL),
    "closed inside the header": (b"LIST", send(b"OK"), None),
    "closed inside a body": (b"GET a", send(HEADER + b"1"), None),
    "closed inside a listing": (b"LIST", send(b"OK\na\n"), None),
    "malformed": (b"LIST", send(b"HTTP/1.1 400\n"), None),
    "header too long": (b"LIST", send(b"x" * (MAX_LINE + 1)), None),
    "silent": (b"LIST", silent(), None),
    "silent inside a body": (b"GET a", silent(HEADER + b"1"), None),
}
COUNT_NOT: dict[str, tuple[bytes, Play, Abilities | None]] = {
    "complete": (b"LIST", send(b"OK\nEND\n"), None),
    "an error": (b"GET a", send(b"ERR 503 the storage does not respond\n"), ALL),
    "no port": (b"LIST", refuse(system(errno.EADDRNOTAVAIL)), None),
    "no descriptor": (b"LIST", refuse(system(errno.EMFILE)), None),
    "no descriptor in the system": (b"LIST", refuse(system(errno.ENFILE)), None),
    "no memory": (b"LIST", refuse(system(errno.ENOBUFS)), None),
    "no local address": (b"LIST", refuse(error.ConnectBindError(1, "?")), None),
    "an unexpected exception": (b"LIST", refuse(ValueError("?")), None),
    "a verb of no version, OK": (b"WHO", send(b"OK\n"), ALL),
    "a verb of no version, closed": (b"WHO", send(), ALL),
    "a verb of no version, malformed": (b"WHO", send(b"what?\n"), ALL),
    "a verb of no version, silent": (b"WHO", silent(), ALL),
    "a verb of version 2 for version 1, closed": (b"GET a", send(), VERSION_1),
    "a verb of version 2 for version 1, silent": (b"GET a", silent(), VERSION_1),
    "a verb of version 2 for one not known": (b"FEAT", send(), None),
    "a long digest": (b"HASH a", silent(), ALL),
    "GET refused in place of DOWNLOAD": (b"DOWNLOAD a", send(b"ERR 403 forbidden\n"), ALL),
    "the client goes before the connection": (b"LIST", cancelled, None),
    "the client goes before the header": (b"LIST", client_goes(), None),
    "the client goes inside the body": (b"GET a", client_goes(HEADER + b"1"), None),
    "the client is reset inside the body": (b"GET a", relay_fails(PeerGone("?")), None),
    "the client does not read": (b"GET a", paused, None),
    "no pipe, no memory": (b"GET a", relay_fails(OSError("?")), None),
    "killed": (b"LIST", killed(Outcome.KILLED), None),
    "drained": (b"LIST", killed(Outcome.DRAINED), None),
}
"""By how an attempt ends: the command, what happens, and what the upstream supports."""


class FailureCase(ProxyCase):
    options = {"resume_for": 30.0}

    def failures(self, command: bytes, play: Play, abilities: Abilities | None) -> tuple[int, int]:
        """Return the failures in a row, and in all, after one attempt."""
        self.protocol, self.wire = self.new_client(43_000 + len(self.endpoint.connections))
        (upstream,) = self.factory.resources.upstreams
        upstream.abilities, upstream.failures, upstream.failed_commands = abilities, 0, 0
        before = len(self.endpoint.connections)
        self.protocol.dataReceived(command + b"\n")
        play(self, self.endpoint.connections[before])
        found = upstream.failures, upstream.failed_commands
        if self.wire.open:
            self.wire.lose(self.protocol)
        return found


class FailureTests(FailureCase):
    def test_ends_that_count(self) -> None:
        for name, (command, play, abilities) in COUNT.items():
            with self.subTest(name):
                self.assertEqual(self.failures(command, play, abilities), (1, 1), name)

    def test_ends_that_do_not_count(self) -> None:
        for name, (command, play, abilities) in COUNT_NOT.items():
            with self.subTest(name):
                self.assertEqual(self.failures(command, play, abilities), (0, 0), name)

    def test_time_of_the_command_is_not_that_of_its_last_attempt(self) -> None:
        def play(case: FailureCase, upstream: Connection) -> None:
            send(HEADER + b"1")(case, upstream)
            case.clock.advance(0.1)
            case.endpoint.last.accept()
            case.clock.pump([1.0] * 31)
            self.assertFalse(case.wire.open)

        self.assertEqual(self.failures(b"GET a", play, ALL), (1, 1))

    def test_replies_to_the_request_for_the_rest(self) -> None:
        for reply, expected in (
            (b"ERR 503 busy\n", 0),
            (b"ERR 412 changed etag=b\n", 0),
            (b"ERR 404 file not found\n", 0),
            (b"OK nonsense\n", 2),
            (HEADER, 1),
        ):

            def play(case: FailureCase, upstream: Connection, reply: bytes = reply) -> None:
                send(HEADER + b"1")(case, upstream)
                case.clock.advance(0.1)
                case.endpoint.last.accept()
                case.endpoint.last.send(reply)

            self.assertEqual(self.failures(b"GET a", play, ALL)[0], expected, reply)
