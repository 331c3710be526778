"""Notify the service manager of the daemon's state: the protocol of ``sd_notify``.

A unit of ``Type=notify`` is started when the daemon is ready, and systemd kills and restarts a
daemon whose reactor hangs (``WatchdogSec=``). The socket is in ``NOTIFY_SOCKET``; without the
variable there is no notifier.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, MutableMapping
from enum import Enum
from typing import TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from natproxy.settings import one_line

Result = TypeVar("Result")

RETRY = 0.1
"""Seconds until a message is sent again for which the manager's queue was full."""

WAITING = 16
"""Messages that may wait for the queue."""

_SOCKET, _PERIOD, _PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class State(Enum):
    """What the manager has been notified of."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


class Event(Enum):
    """What happens to the daemon."""

    READY = "ready"
    RELOAD = "reload"
    RELOADED = "reloaded"
    STOP = "stop"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.STARTING: {Event.READY: State.RUNNING, Event.STOP: State.STOPPING},
    State.RUNNING: {Event.RELOAD: State.RELOADING, Event.STOP: State.STOPPING},
    State.RELOADING: {Event.RELOADED: State.RUNNING, Event.STOP: State.STOPPING},
    State.STOPPING: {},
}
"""The next state. An event that a state does not have is not notified of, such as the end of the
second one of two reloads."""


class Notifier:
    """Sends the daemon's state to the service manager.

    Sending does not block. A message that cannot be sent is logged, and the daemon continues.

    :param address: of a UNIX datagram socket; in the abstract namespace if it begins with ``@``.
    :param clock: follows the monotonic clock.
    :param period: seconds within which the manager expects a sign of life; 0 for no watchdog.
    :ivar state: what the manager has been notified of.
    :ivar variables: those of the environment that `take_notifier` has removed. A program that
        replaces this one in its process needs them.
    """

    _log = Logger()

    def __init__(self, address: str, clock: IReactorTime, period: float = 0.0) -> None:
        self.state = State.STARTING
        self.variables: Mapping[str, str] = {}
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._shown = address
        self._clock = clock
        self._period = period
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._waiting: deque[bytes] = deque()
        self._retry: IDelayedCall | None = None
        self._watchdog: IDelayedCall | None = None
        self._failed = False

    def ready(self, status: str) -> None:
        """Notify that the daemon has started, and send signs of life from now on.

        :param status: one line for ``systemctl status``.
        """
        if self._advance(Event.READY):
            self._send("READY=1", f"STATUS={one_line(status)}")
            if self._period:
                self._send_sign_of_life()

    def reloading(self) -> None:
        """Notify that the daemon reads its settings again."""
        if self._advance(Event.RELOAD):
            now = int(self._clock.seconds() * 1_000_000)
            self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def reloaded(self, status: str) -> None:
        """Notify that the reload has ended, with success or without.

        :param status: one line for ``systemctl status``.
        """
        if self._advance(Event.RELOADED):
            self._send("READY=1", f"STATUS={one_line(status)}")

    def stopping(self, status: str) -> None:
        """Notify that the daemon stops; no sign of life is expected from now on.

        :param status: one line for ``systemctl status``.
        """
        if self._advance(Event.STOP):
            self._send("STOPPING=1", f"STATUS={one_line(status)}")
            if self._watchdog is not None:
                self._watchdog.cancel()

    def closed(self, result: Result) -> Result:
        """Close the socket: the daemon has stopped. Return the parameter, as a callback does."""
        self._waiting.clear()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._socket.close()
        return result

    def _advance(self, event: Event) -> bool:
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            return False
        self.state = following
        return True

    def _send_sign_of_life(self) -> None:
        self._watchdog = self._clock.callLater(self._period / 2, self._send_sign_of_life)
        # One that waits already shows as much.
        if not self._waiting:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if len(self._waiting) < WAITING:
            self._waiting.append("\n".join(lines).encode())
        if self._retry is None:
            self._flush()

    def _flush(self) -> None:
        self._retry = None
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address)
                self._failed = False
            except BlockingIOError:
                self._retry = self._clock.callLater(RETRY, self._flush)
                return
            except OSError as error:
                self._report(error.strerror or str(error))
            self._waiting.popleft()

    def _report(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._log.warn(
                "cannot notify the service manager at {address} ($NOTIFY_SOCKET): {reason}",
                address=self._shown,
                reason=reason,
            )


def take_notifier(environment: MutableMapping[str, str], clock: IReactorTime) -> Notifier | None:
    """Return the notifier of this process; ``None`` if no service manager expects messages.

    The variables are removed: a child process would be taken for the daemon.

    :param clock: as of `Notifier`.
    """
    names = (_SOCKET, _PERIOD, _PROCESS)
    taken = {name: environment.pop(name) for name in names if name in environment}
    address, period, process = (taken.get(name, "") for name in names)
    if not address.startswith(("/", "@")):
        return None
    microseconds = int(period) if period.isascii() and period.isdigit() else 0
    if process not in ("", str(os.getpid())):
        microseconds = 0
    notifier = Notifier(address, clock, microseconds / 1_000_000)
    notifier.variables = taken
    return notifier
