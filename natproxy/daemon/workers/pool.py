"""The workers of one generation: started, watched, replaced, drained.

Worker *i* accepts from socket *i* of each endpoint. While it does not serve, a sibling accepts from
its socket as well: no client is refused or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from natproxy.daemon.workers.member import Launch, StartFailed, Worker
from natproxy.daemon.workers.state import POOL_TRANSITIONS, Event, PoolEvent, PoolState, State

BEAT = 1.0
"""Seconds between two heartbeats of a worker, and between two checks of them."""

SILENCE = 10.0
"""Seconds without a heartbeat after which a worker is killed."""

START = 60.0
"""Seconds that a worker may take to start."""

LONGEST_DELAY = 30.0
"""Seconds between two attempts to replace a worker at most."""

REAP = 0.02
"""Seconds between two attempts to reap a process whose channel is closed."""

STEADY = 60.0
"""Seconds that a worker must have served for the next one to be started without a delay."""


def delay_after(failures: int) -> float:
    """Return the seconds to wait before a worker is replaced.

    :param failures: ends of the worker in a row, this one included.
    """
    return 0.0 if failures < 2 else min(LONGEST_DELAY, 2.0 ** (failures - 2))


class _Slot:
    """The place of one worker of a generation.

    :ivar worker: that is in it; ``None`` until the next one is started.
    :ivar failures: ends in a row.
    :ivar cover: the sibling that accepts from its sockets meanwhile.
    :ivar call: starts the next worker.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.failures = 0
        self.cover: Worker | None = None
        self.call: IDelayedCall | None = None


class Pool:
    """The workers of one generation.

    :param clock: for heartbeats and delays.
    :param count: number of workers.
    :param launch: starts one.
    :param attach: makes the reactor serve a worker's channel and log.
    :param generation: number of the generation.
    :ivar generation: likewise.
    :ivar gone: called with each worker whose process has ended.
    :ivar ended: called when no worker is left after `drain`, `retire` or `kill`, or after a start
        that failed.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        count: int,
        launch: Launch,
        attach: Callable[[Worker], object],
        generation: int = 0,
    ) -> None:
        self.generation = generation
        self.ended: Callable[[Pool], object] = lambda pool: None
        self.gone: Callable[[Worker], object] = lambda worker: None
        self._clock = clock
        self._launch = launch
        self._attach = attach
        self._slots = [_Slot() for _ in range(count)]
        # Those that drain and those that were killed; their slots have others.
        self._leaving: list[Worker] = []
        self._state = PoolState.NEW
        # Fires at the end of `PoolState.STARTING`.
        self._started: Deferred[None] = Deferred()
        self._check: IDelayedCall | None = None
        self._checked = clock.seconds()

    def __iter__(self) -> Iterator[Worker]:
        """Yield the workers whose processes run, in the order of their numbers, then the old."""
        for slot in self._slots:
            if slot.worker is not None:
                yield slot.worker
        yield from self._leaving

    def __len__(self) -> int:
        """Return how many workers run."""
        return sum(1 for _ in self)

    @property
    def serving(self) -> list[Worker]:
        """The workers that accept connections."""
        return [one for one in self if one.state is State.SERVING]

    def start(self) -> Deferred[None]:
        """Start all workers.

        :return: fires when all serve, and fails with `StartFailed` when the first one cannot.
        """
        self._happened(PoolEvent.START)
        try:
            for number in range(len(self._slots)):
                self._start(number)
        except OSError as error:
            self._fail(f"cannot start a process: {error.strerror}")
            self._end_if_empty()
        return self._started

    def resume(self, workers: Sequence[Worker], serving: bool) -> None:
        """Take workers that run already: this program was executed by their master.

        :param workers: none of them has ended, as far as the master had noted.
        :param serving: whether they are replaced when they end.
        """
        for worker in workers:
            slot = self._slots[worker.number] if worker.number < len(self._slots) else None
            if serving and slot is not None and slot.worker is None:
                slot.worker = worker
            else:
                self._leaving.append(worker)
        self._happened(PoolEvent.RESUME if serving else PoolEvent.LEAVE)
        self.attach()
        for number, slot in enumerate(self._slots):
            if serving and slot.worker is None:
                self._schedule(number, 0.0)
        self._balance()

    @property
    def replacing(self) -> bool:
        """Whether workers that end are replaced."""
        return self._state is PoolState.SERVING

    def json(self) -> dict[str, Any]:
        """Return what the program needs that takes them; see `resume`."""
        return {
            "generation": self.generation,
            "serving": self.replacing,
            "workers": [worker.json() for worker in self],
        }

    def attach(self) -> None:
        """Have the reactor serve all of them from now on, and check their heartbeats."""
        for worker in self:
            self._attach(worker)
        self._checked = self._clock.seconds()
        for worker in self:
            worker.heard = self._checked
        self._check = self._clock.callLater(BEAT, self._check_all)

    def drain(self, seconds: float | None) -> None:
        """Make all workers finish their connections and end; none is replaced.

        :param seconds: as of `Worker.drain`.
        """
        self._begin_to_leave()
        for worker in list(self):
            worker.drain(seconds)
        self._end_if_empty()

    def retire(self, seconds: float | None) -> None:
        """Make all workers accept no more, and end when their clients have left.

        :param seconds: as of `Worker.retire`.
        """
        self._begin_to_leave()
        for worker in list(self):
            worker.retire(seconds)
        self._end_if_empty()

    def abort(self) -> None:
        """Make the workers that drain abort their connections."""
        for worker in self:
            worker.send("abort")

    def kill(self) -> None:
        """Kill all workers; none is replaced."""
        self._begin_to_leave()
        for worker in list(self):
            worker.process.kill()
        self._end_if_empty()

    def send(self, action: str, **members: Any) -> None:
        """Send a message to all."""
        for worker in self:
            worker.send(action, **members)

    def _happened(self, event: PoolEvent) -> None:
        self._state = POOL_TRANSITIONS[self._state][event]

    def _begin_to_leave(self) -> None:
        """Replace none of them any more; a start that is under way has failed."""
        starting = self._state is PoolState.STARTING
        self._happened(PoolEvent.LEAVE)
        if starting:
            self._started.errback(StartFailed("the daemon stops them"))
        for slot in self._slots:
            call, slot.call = slot.call, None
            if call is not None:
                call.cancel()

    def _start(self, number: int) -> None:
        slot = self._slots[number]
        started = self._launch(number)
        now = self._clock.seconds
        slot.worker = Worker(number, self.generation, started, self.changed, now)

    def changed(self, worker: Worker, event: Event) -> None:
        """Do what follows from a change of a worker's state."""
        if event is Event.READY:
            self._check_started()
        elif event is Event.DRAIN:
            if self.replacing and self._slots[worker.number].worker is worker:
                # It drains since it received a signal: the next one serves meanwhile.
                self._leave(worker)
                self._schedule(worker.number, 0.0)
        elif event is Event.LOSE:
            self._reap(worker)
        elif event is Event.END:
            self._worker_ended(worker)
        self._balance()

    def _check_started(self) -> None:
        if self._state is PoolState.STARTING and len(self.serving) == len(self._slots):
            self._happened(PoolEvent.STARTED)
            self._started.callback(None)

    def _fail(self, reason: str) -> None:
        """End all of them: one cannot start."""
        self._happened(PoolEvent.FAIL)
        for worker in self:
            worker.process.terminate()
        self._started.errback(StartFailed(reason))

    def reap(self) -> None:
        """Note which processes have ended."""
        for worker in list(self):
            if worker.process.poll():
                worker.ended()

    def _reap(self, worker: Worker) -> None:
        """Note the end of a process as soon as the kernel reports it."""
        if worker.state is State.LOST:
            if worker.process.poll():
                worker.ended()
            else:
                self._clock.callLater(REAP, self._reap, worker)

    def _leave(self, worker: Worker) -> None:
        self._slots[worker.number].worker = None
        self._leaving.append(worker)

    def _worker_ended(self, worker: Worker) -> None:
        self.gone(worker)
        text = worker.reason or f"process {worker.pid} {worker.process.end()}"
        if worker in self._leaving:
            self._leaving.remove(worker)
            self._log.info("worker {number} {text}", number=worker.number, text=text)
        else:
            slot = self._slots[worker.number]
            slot.worker = None
            if self._state is PoolState.STARTING:
                self._fail(worker.reason or f"worker {worker.number}: {text}")
            elif self.replacing:
                steady = self._clock.seconds() - worker.since >= STEADY
                slot.failures = 1 if steady else slot.failures + 1
                delay = delay_after(slot.failures)
                self._log.error(
                    "worker {number}: {text}; the next one is started {when}",
                    number=worker.number,
                    text=text,
                    when=f"in {delay:g} s" if delay else "at once",
                )
                self._schedule(worker.number, delay)
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._state is PoolState.LEAVING and not len(self):
            self._happened(PoolEvent.EMPTY)
            check, self._check = self._check, None
            if check is not None:
                check.cancel()
            self.ended(self)

    def _schedule(self, number: int, delay: float) -> None:
        self._slots[number].call = self._clock.callLater(delay, self._replace, number)

    def _replace(self, number: int) -> None:
        slot = self._slots[number]
        slot.call = None
        try:
            self._start(number)
        except OSError as error:
            slot.failures += 1
            delay = delay_after(slot.failures)
            self._log.error(
                "worker {number}: cannot start a process: {reason}; tried again in {delay:g} s",
                number=number,
                reason=error.strerror,
                delay=delay,
            )
            self._schedule(number, delay)
        else:
            assert slot.worker is not None
            self._attach(slot.worker)

    def _balance(self) -> None:
        """Have siblings accept from the sockets of workers that do not serve."""
        if not self.replacing:
            return
        for number, slot in enumerate(self._slots):
            serves = slot.worker is not None and slot.worker.state is State.SERVING
            covered = slot.cover is not None and slot.cover.state is State.SERVING
            if serves and slot.cover is not None:
                if covered:
                    slot.cover.send("release", socket=number)
                slot.cover = None
            elif not serves and not covered:
                slot.cover = self._sibling_of(number)
                if slot.cover is not None:
                    slot.cover.send("adopt", socket=number)

    def _sibling_of(self, number: int) -> Worker | None:
        count = len(self._slots)
        for step in range(1, count):
            sibling = self._slots[(number + step) % count].worker
            if sibling is not None and sibling.state is State.SERVING:
                return sibling
        return None

    def _check_all(self) -> None:
        """Reap the workers that have ended, and kill those that have sent nothing for too long."""
        now = self._clock.seconds()
        self._check = self._clock.callLater(BEAT, self._check_all)
        late = now - self._checked > 3 * BEAT
        self._checked = now
        self.reap()
        for worker in list(self):
            if late:
                # This process did not run: messages may wait to be read.
                worker.heard = now
            limit = START if worker.state is State.STARTING else SILENCE
            if now - worker.heard > limit:
                if worker.state is not State.LOST:
                    self._log.error(
                        "worker {number}: process {pid} has sent no heartbeat for {seconds:g} s:"
                        " it is killed",
                        number=worker.number,
                        pid=worker.pid,
                        seconds=limit,
                    )
                worker.process.kill()
                if worker.state is not State.LOST:
                    worker.happened(Event.LOSE)
