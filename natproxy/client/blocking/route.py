"""How a TCP connection to a host is made: several addresses, tried as RFC 8305 says.

The addresses are tried 250 ms apart, IPv6 and IPv4 in turn, and the first connection that is
made is taken. A dead first address costs those 250 ms, and only once for a session.
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
"""Seconds that all attempts together have, unless the caller wants otherwise."""

ATTEMPT_DELAY = 0.25
"""Seconds between the beginnings of two attempts (RFC 8305, section 5)."""

TRUSTED = 30.0
"""Seconds that a connection may have been idle to be used for one more command."""

_NUMERIC = re.compile("[0-9.]+|.*:.*")
"""Hosts that are addresses: no resolver is asked for them."""

_PENDING = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR)


class Candidate(NamedTuple):
    """An address to connect to, as `socket.getaddrinfo` returns it."""

    family: int
    kind: int
    protocol: int
    address: Any


class Route:
    """The addresses of one host, and the one that worked. Several threads may use it.

    :param host: name or address.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        # Read and replaced whole.
        self._winner: Candidate | None = None

    def candidates(self) -> list[Candidate]:
        """Resolve the host; the address that worked last is the first.

        :raises OSError: if it cannot be resolved.
        :raises ValueError: if it can be no host name.
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
        :param attempts: holds the sockets; whoever has it can abandon them.
        :return: a blocking socket.
        :raises TimeoutError: if none accepts in time.
        :raises OSError: why the last one could not be connected to.
        """
        try:
            connected, winner = attempts.run(self._resolved, timeout)
        finally:
            attempts.close()
        self._winner = winner
        return connected

    def _resolved(self, wait: Callable[[threading.Event], object]) -> list[Candidate]:
        """Return the candidates; a resolver that is silent is waited for in the caller's way.

        The system's resolver cannot be interrupted, not even by a signal, and has time-outs of
        its own. So a name is resolved in a thread, which is left behind if that takes too long.
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
            # The system allows no more threads.
            return self.candidates()
        wait(ended)
        if failures:
            raise failures[0]
        return found


class Attempts:
    """Connects that are under way at the same time; see `Route`.

    :param check: raises what is to end them; it is called again after each wait.
    :param clock: gives seconds, from any origin.
    """

    def __init__(
        self, check: Callable[[], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._check = check
        self._clock = clock
        self._pending: dict[int, tuple[socket.socket, Candidate]] = {}

    def interrupt(self) -> None:
        """End the wait, from another thread."""
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

        :param resolve: returns the addresses; it is given what waits for an event.
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
            # No wait is longer than this: an interrupt may come between a look and a wait.
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
                # The next one need not wait any longer.
                begin_next = now
        assert failure is not None
        raise failure

    def _wait(self, event: threading.Event, end: float) -> None:
        """Wait for an event.

        :raises TimeoutError: at the end.
        """
        while not event.wait(max(0.0, min(end - self._clock(), ATTEMPT_DELAY))):
            self._check()
            if self._clock() >= end:
                raise TimeoutError

    def _begin(self, candidate: Candidate, poll: select.poll) -> None:
        connecting = socket.socket(candidate.family, candidate.kind, candidate.protocol)
        try:
            connecting.setblocking(False)
            # It is held before it is connected: `interrupt` ends the wait for that too.
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
    """Return addresses with the families in turn, the first one's first (RFC 8305, section 4)."""
    families: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        of_family = families.setdefault(candidate.family, [])
        if candidate not in of_family:
            of_family.append(candidate)
    rounds = zip_longest(*families.values())
    return [candidate for candidate in chain.from_iterable(rounds) if candidate is not None]


def reset_at_close(connected: socket.socket, reset: bool) -> None:
    """Choose whether the kernel resets the connection when it is closed, also by a kill.

    A server cannot tell a closed connection from a half-closed one, whose client still waits
    for its reply. After a reset it stops computing a digest that nobody waits for.
    """
    # struct linger, socket(7); without a time, close(2) discards what was not sent.
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))
