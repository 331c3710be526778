"""TCP connections to a host with several addresses, by Happy Eyeballs (RFC 8305).

The addresses are tried 250 ms apart, IPv6 and IPv4 in turn, and the first connection that is
established is used. A dead first address costs those 250 ms, once for a session.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, NamedTuple

CONNECT_TIMEOUT = 10.0
"""Seconds for all attempts together, by default."""

ATTEMPT_DELAY = 0.25
"""Seconds between the beginnings of two attempts (RFC 8305, section 5)."""

IDLE_LIMIT = 30.0
"""Seconds of idleness after which a connection is not used for another command."""

_NUMERIC = re.compile("[0-9.]+|.*:.*")
"""Hosts that are addresses: they need no resolver."""

LOW_RTT = 500
"""Microseconds of round-trip time up to which a small receive buffer is as fast."""

RECEIVE_BUFFER = 1 << 20
"""Bytes of the receive buffer of a connection to a server nearby."""

_RTT_OFFSET = 68

_PENDING = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR)


def connect_seconds(timeout: float, connect_timeout: float | None) -> float:
    """Return the seconds to wait for a connection.

    :param timeout: of a session, in seconds.
    :param connect_timeout: of the session; ``None`` for `CONNECT_TIMEOUT`, or ``timeout`` if
        that is shorter.
    """
    return min(CONNECT_TIMEOUT, timeout) if connect_timeout is None else connect_timeout


class Candidate(NamedTuple):
    """An address to connect to, as ``socket.getaddrinfo`` returns it."""

    family: int
    kind: int
    protocol: int
    address: Any


class Route:
    """The addresses of one host, and the one that accepted last. Several threads may use it.

    :param host: a name or an address.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        # Read and replaced whole.
        self._winner: Candidate | None = None

    def candidates(self) -> list[Candidate]:
        """Resolve the host; the address that accepted last is the first.

        :raises OSError: if it cannot be resolved.
        :raises ValueError: if it is not a valid host name.
        """
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        candidates = interleave(
            [Candidate(family, kind, protocol, to) for family, kind, protocol, _, to in found]
        )
        winner = self._winner
        if winner in candidates:
            candidates.remove(winner)
            candidates.insert(0, winner)
        return candidates

    def connect(self, timeout: float, attempts: Attempts) -> socket.socket:
        """Connect to the first address that accepts.

        :param timeout: seconds in all; the resolution of the name is part of it.
        :param attempts: holds the sockets; another thread can interrupt it.
        :return: a blocking socket.
        :raises TimeoutError: if none accepts in time.
        :raises OSError: for the last address that failed.
        """
        try:
            connected, winner = attempts.run(self._resolved, timeout)
        finally:
            attempts.close()
        self._winner = winner
        return connected

    def _resolved(self, wait: Callable[[threading.Event], object]) -> list[Candidate]:
        """Return the candidates, resolved in a thread if the host is a name.

        The system's resolver cannot be interrupted, not even by a signal, and has its own
        time-outs. If it takes too long, the thread is left to end later.

        :param wait: waits for an event, or raises.
        """
        if _NUMERIC.fullmatch(self.host):
            return self.candidates()
        found: list[Candidate] = []
        failures: list[Exception] = []
        ended = threading.Event()

        def resolve() -> None:
            try:
                found.extend(self.candidates())
            except Exception as error:
                failures.append(error)
            finally:
                ended.set()

        try:
            threading.Thread(target=resolve, daemon=True, name="natproxy resolver").start()
        except RuntimeError:
            # The system has no thread left.
            return self.candidates()
        wait(ended)
        if failures:
            raise failures[0]
        return found


class Attempts:
    """Concurrent connects to the addresses of one host; see `Route`.

    :param check: called after each wait; what it raises cancels the connects.
    :param clock: returns seconds, from any origin.
    """

    def __init__(
        self, check: Callable[[], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._check = check
        self._clock = clock
        self._pending: dict[int, tuple[socket.socket, Candidate]] = {}

    def interrupt(self) -> None:
        """Wake up `run`, from another thread, so that it calls ``check``."""
        for pending, _ in list(self._pending.values()):
            with suppress(OSError):
                pending.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the sockets that are still connecting."""
        for pending, _ in self._pending.values():
            pending.close()
        self._pending.clear()

    def run(
        self,
        resolve: Callable[[Callable[[threading.Event], object]], list[Candidate]],
        timeout: float,
    ) -> tuple[socket.socket, Candidate]:
        """Return the first socket that is connected, and to where; see `Route.connect`.

        :param resolve: returns the addresses; its parameter waits for an event.
        """
        end = self._clock() + timeout
        waiting = list(resolve(lambda event: self._wait(event, end)))
        begin_next = self._clock()
        failure: OSError | None = None
        poll = select.poll()
        while waiting or self._pending:
            self._check()
            now = self._clock()
            if now >= end:
                raise TimeoutError
            if waiting and (now >= begin_next or not self._pending):
                try:
                    self._begin(waiting.pop(0), poll)
                except OSError as error:
                    failure = error
                    continue
                begin_next = now + ATTEMPT_DELAY
            until = min(end, begin_next) if waiting else end
            # Waits are short: an interrupt between `check` and `poll` wakes nothing up.
            seconds = max(0.0, min(until - now, ATTEMPT_DELAY))
            ready = poll.poll(seconds * 1000)
            self._check()
            for descriptor, _ in ready:
                pending, candidate = self._pending[descriptor]
                code = pending.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                poll.unregister(descriptor)
                del self._pending[descriptor]
                if not code:
                    pending.setblocking(True)
                    return pending, candidate
                pending.close()
                failure = OSError(code, os.strerror(code))
                # The next address is tried at once.
                begin_next = now
        assert failure is not None
        raise failure

    def _wait(self, event: threading.Event, end: float) -> None:
        """Wait for an event.

        :raises TimeoutError: if it is not set by then.
        """
        while not event.wait(max(0.0, min(end - self._clock(), ATTEMPT_DELAY))):
            self._check()
            if self._clock() >= end:
                raise TimeoutError

    def _begin(self, candidate: Candidate, poll: select.poll) -> None:
        connecting = socket.socket(candidate.family, candidate.kind, candidate.protocol)
        try:
            connecting.setblocking(False)
            # Registered before it connects, so that `interrupt` finds it.
            self._pending[connecting.fileno()] = connecting, candidate
            try:
                connecting.connect(candidate.address)
            except OSError as error:
                if error.errno not in _PENDING:
                    raise
            poll.register(connecting, select.POLLOUT)
        except BaseException:
            self._pending.pop(connecting.fileno(), None)
            connecting.close()
            raise


def interleave(candidates: list[Candidate]) -> list[Candidate]:
    """Return addresses with alternating families, that of the first one first (RFC 8305, 4)."""
    families: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        of_family = families.setdefault(candidate.family, [])
        if candidate not in of_family:
            of_family.append(candidate)
    rounds = zip_longest(*families.values())
    return [candidate for candidate in chain.from_iterable(rounds) if candidate is not None]


def reset_at_close(connected: socket.socket, reset: bool) -> None:
    """Set whether closing the connection, or the end of the process, resets it.

    A server cannot distinguish a closed connection from a half-closed one, whose client still
    waits for its reply. A reset makes it cancel a digest that no client waits for.
    """
    # struct linger, socket(7); with a time of 0, close(2) discards unsent bytes.
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))


def limit_receive_buffer(connected: socket.socket) -> None:
    """Limit the bytes that wait in the kernel to be received, if the server is nearby.

    If the process is killed, they are lost and have to be downloaded again: up to 32 MiB by
    Linux's defaults. Over a short distance, 1 MiB is as fast; a long one needs more.
    """
    with suppress(OSError, AttributeError):
        # struct tcp_info, tcp(7): tcpi_rtt.
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_OFFSET + 4)
        (microseconds,) = struct.unpack_from("=I", info, _RTT_OFFSET)
        if microseconds <= LOW_RTT:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
