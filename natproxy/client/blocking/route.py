"""TCP connections to a host with several addresses, by Happy Eyeballs (RFC 8305).

The addresses are tried 250 ms apart, IPv6 and IPv4 in turn, and the first connection that is
established is used. If the first address does not respond, only the first connection of a
session takes 250 ms longer: the later ones begin with the address that accepted.
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
"""Matches hosts that are addresses: they need no resolver."""

LOW_RTT = 500
"""Microseconds of round-trip time up to which `RECEIVE_BUFFER` is as fast as a larger one."""

RECEIVE_BUFFER = 1 << 20
"""Bytes of the receive buffer, up to a round-trip time of `LOW_RTT`."""

_RTT_OFFSET = 68
"""Bytes before ``tcpi_rtt`` in Linux's ``struct tcp_info``."""

_PENDING = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR)


def connect_seconds(timeout: float, connect_timeout: float | None) -> float:
    """Return the seconds to wait for a connection.

    :param timeout: the session's time-out, in seconds.
    :param connect_timeout: the session's time-out for connecting, in seconds; ``None`` for the
        shorter one of `CONNECT_TIMEOUT` and ``timeout``.
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
    :param port: of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        # Without a lock: one assignment replaces it.
        self._winner: Candidate | None = None

    def candidates(self) -> list[Candidate]:
        """Resolve the host; the address that accepted last is the first.

        :raises OSError: if the host cannot be resolved.
        :raises ValueError: if ``host`` is not a valid host name.
        """
        host = _resolvable(self.host)
        found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
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

        :param timeout: seconds for the resolution of the name and all attempts together.
        :param attempts: makes the connections; another thread can interrupt them.
        :return: a blocking socket.
        :raises TimeoutError: if none accepts in time.
        :raises OSError: if the host cannot be resolved, or the error of the address that failed
            last.
        :raises ValueError: if the host is not a valid host name.
        :raises Exception: what the check of ``attempts`` raises.
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
        time-outs. If it takes too long, its thread continues in the background until it returns.

        :param wait: waits for an event; raises if the time is over or the caller cancels.
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
    """Concurrent attempts to connect to the addresses of one host; see `Route`.

    :param check: called after each wait; an exception that it raises cancels the attempts.
    :param clock: returns seconds since any origin.
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
        """Return the first socket that is connected, and its address; see `Route.connect`.

        :param resolve: returns the addresses; its parameter is a function that waits for an event.
        :param timeout: in seconds.
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
            # Waits are short: `interrupt` cannot wake up a `poll` that has not begun.
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

        :param end: by the clock.
        :raises TimeoutError: if the event is not set by ``end``.
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
    """Return the addresses, in alternating families (RFC 8305, section 4), without duplicates.

    The first address stays the first.
    """
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

    If the process is killed, these bytes are lost and have to be downloaded again: up to 32 MiB
    by Linux's defaults. With a short round-trip time, 1 MiB is as fast; a longer one needs more.
    """
    with suppress(OSError, AttributeError):
        # struct tcp_info, tcp(7): tcpi_rtt.
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_OFFSET + 4)
        (microseconds,) = struct.unpack_from("=I", info, _RTT_OFFSET)
        if microseconds <= LOW_RTT:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _resolvable(host: str) -> str | bytes:
    """Return a host for ``getaddrinfo``: text is encoded by a codec that is slow to import."""
    labels = host.removesuffix(".").split(".")
    if host.isascii() and all(0 < len(label) < 64 for label in labels):
        return host.encode("ascii")
    return host
