"""The journal of a daemon: takes the events from the ring, and has threads write them."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.journal.directory import Claim, JournalError, note_off
from natproxy.journal.files import ALL, Share
from natproxy.journal.maintenance import JournalSettings, Maintenance, Report
from natproxy.journal.ports import LivePorts
from natproxy.journal.space import Unwritable
from natproxy.journal.spool import Spool, open_spool
from natproxy.journal.status import JournalStatus
from natproxy.journal.writer import Batch, Writer
from natproxy.nat.ring import EventRing
from natproxy.records.event_rows import TIME
from natproxy.records.record import microseconds_of
from natproxy.server.threads import InThread, Threads

__all__ = ["JournalError", "JournalService", "JournalSettings", "note_off"]

FLUSH = 0.25
"""Seconds between an event and the write that makes it durable."""

IDLE = 10.0
"""Seconds without an event after which the time until which the journal is complete is renewed."""

RETRY = 1.0
"""Seconds between attempts to write, if the disk is full."""

MAINTENANCE = 60.0
"""Seconds between checks of what is to be sealed and deleted."""

READ = 1.0
"""Seconds until a segment is sealed that was being read; a reader takes part of that."""

STOP = 10.0
"""Seconds that the threads may take when the daemon stops."""


class State(Enum):
    """What the journal does: it goes around from idle to delayed, writing, and idle.

    From writing it becomes unwritable if that fails, and delayed if there are new events. It is
    stopping from any of them until the last batch is written.
    """

    STOPPED = "stopped"
    IDLE = "idle"  # until an event, or until `IDLE` has passed
    DELAYED = "delayed"  # events are in the ring; a write is due
    WRITING = "writing"  # a thread writes a batch
    UNWRITABLE = "unwritable"  # the last write failed; the next attempt is due
    STOPPING = "stopping"  # the last batch is to be written, or is being written


class JournalService(Service):
    """Writes the events of a ring into the segments of a directory.

    The reactor's thread takes a list of what is new from the ring, each 0.25 s at most; everything
    else is done in two threads: one writes, the other recovers, seals and deletes. A command never
    waits for the journal. While it cannot be written, events stay in the ring; those that the ring
    loses are a gap.

    :param reactor: has the clock, and delivers what the threads return.
    :param ring: must not have lost an event.
    :param directory: is made and locked when the service starts, or before by `prepare`.
    :param wall_clock: returns seconds since the epoch.
    :param in_thread: calls the function in a thread of its own.
    :param share: of the directory, which other workers write as well.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        ring: EventRing,
        directory: str,
        settings: JournalSettings,
        wall_clock: Callable[[], float] = time.time,
        in_thread: InThread | None = None,
        share: Share = ALL,
    ) -> None:
        self.directory = directory
        self.share = share
        self._reactor = reactor
        self._ring = ring
        self._wall_clock = wall_clock
        self._in_thread = Threads(reactor, 2, "journal") if in_thread is None else in_thread
        self._state = State.STOPPED
        self._claim: Claim | None = None
        self._spool: Spool | None = None
        self._names = settings.names
        self._cursor = 0
        self._error: str | None = None
        self._call: IDelayedCall | None = None
        self._written: list[Deferred[None]] = []
        self._next_written: list[Deferred[None]] = []
        self._maintenance_call: IDelayedCall | None = None
        self._maintaining: Deferred[None] | None = None
        self._report = Report(0, 0)
        # Clients may have been served before the files could be opened.
        self._boot_started = boot_started = ring.complete_from
        self._writer = Writer(directory, ring.origin, boot_started, names=settings.names)
        self._maintenance = Maintenance(
            directory, ring.origin.boot, boot_started, settings.keep, settings.max_size, share
        )

    @property
    def rows(self) -> int:
        """Translations and failed commands written since the start."""
        return self._writer.rows

    @property
    def gaps(self) -> int:
        """Gaps recorded since the start."""
        return self._writer.gaps

    @property
    def complete_to(self) -> int:
        """Until when the journal is complete, in microseconds since the epoch."""
        return self._writer.complete_to

    @property
    def ports(self) -> LivePorts:
        """The ports of the entries of the live segment."""
        return self._writer.ports

    def lag(self) -> float:
        """Return the age, in seconds, of the oldest event that is not durable; 0 if all are."""
        if self._cursor + 1 >= self._ring.next:
            return 0.0
        rows, lost = self._ring.read(self._cursor, 1)
        oldest = self.complete_to if lost is not None or not rows else rows[0][TIME]
        return max(0.0, self._wall_clock() - oldest / 1e6)

    def status(self) -> JournalStatus:
        """Return what ``/v1/status`` and the metrics show."""
        return JournalStatus(
            self.directory,
            self.complete_to,
            self.lag(),
            self.rows,
            self.gaps,
            self._report.segments,
            self._report.bytes,
            self._error,
        )

    def retain(self, keep: float, max_size: int) -> None:
        """Change how long and up to what size segments are kept; see `JournalSettings`."""
        if self._maintenance.limit(keep, max_size):
            self._maintain()

    def prepare(self) -> None:
        """Make the directory and lock it; it has no effect if that is done.

        :raises JournalError: if the directory cannot be used.
        """
        if self._claim is None:
            self._claim = Claim(self.directory, self.share, self._ring.origin.boot)
            self._writer.beside = self._claim.beside

    def startService(self) -> None:
        """Begin to write; recover what an earlier run has left.

        :raises JournalError: if the directory cannot be used; see `prepare`.
        """
        self.prepare()
        assert self._claim is not None
        for gap in self._claim.mark_start(self._boot_started):
            self._writer.add_gap(gap)
        self._spool = open_spool(self._ring, self.directory, self._boot_started, self._names)
        super().startService()
        self._write()
        self._maintain()

    def stopService(self) -> Deferred[None]:
        """Write what is in the ring, and record that the journal ends in order.

        :return: fires when the threads have finished, or have taken too long.
        """
        super().stopService()
        if self._state is State.STOPPED:
            self._unlock()
            return succeed(None)
        writing = self._state is State.WRITING
        self._cancel_calls()
        if self._maintenance_call is not None:
            self._maintenance_call.cancel()
            self._maintenance_call = None
        self._state = State.STOPPING
        finished: Deferred[None] = Deferred()
        self._next_written.append(finished)
        if not writing:
            self._write()
        waiting = [finished]
        if self._maintaining is not None:
            waiting.append(self._maintaining)
        ended: Deferred[Any] = DeferredList(waiting, consumeErrors=True)
        ended.addTimeout(STOP, self._reactor)
        return ended.addCallback(self._stopped)

    def flush(self) -> Deferred[None]:
        """Write what is in the ring now.

        :return: fires when it is durable, and the journal is complete until now; fails with
            `JournalError` if the journal cannot be written, or does not run.
        """
        if self._state in (State.STOPPED, State.STOPPING):
            return fail(JournalError(f"the journal in {self.directory} is closed"))
        if self._state is State.UNWRITABLE:
            return fail(self._unwritable())
        flushed: Deferred[None] = Deferred()
        self._next_written.append(flushed)
        if self._state is not State.WRITING:
            self._cancel_calls()
            self._write()
        return flushed

    def _write(self) -> None:
        """Take what is new from the ring, and have a thread write it."""
        ring = self._ring
        stopped = self._state is State.STOPPING
        if not stopped:
            self._state = State.WRITING
        self._written, self._next_written = self._next_written, []
        rows, lost = ring.read(self._cursor, ring.next)
        last = ring.next - 1
        wall, monotonic = self._wall_clock(), self._reactor.seconds()
        alive = [] if lost is None else ring.open_rows(wall, monotonic)
        batch = Batch(rows, lost, alive, microseconds_of(wall), monotonic, stopped, last)
        if self._spool is not None:
            self._spool.taken(last)
        self._in_thread(partial(self._write_in_thread, batch)).addCallbacks(
            self._wrote, self._not_written, callbackArgs=(last,)
        )

    def _write_in_thread(self, batch: Batch) -> str | None:
        self._writer.write(batch)
        if batch.stopped:
            self._writer.close()
            return None
        return self._writer.roll(batch.monotonic)

    def _wrote(self, former: str | None, last: int) -> None:
        """A batch is durable.

        :param former: the path of a segment that is to be sealed.
        :param last: number of the last event in the batch.
        """
        self._cursor = last
        if self._spool is not None:
            self._spool.written(last)
        if self._claim is not None:
            self._claim.clear_start()
        if self._error is not None:
            self._error = None
            self._log.info("the journal in {directory} is written again", directory=self.directory)
        if former is not None:
            self._maintenance.add(former)
            self._maintain()
        written, self._written = self._written, []
        self._continue()
        for waiting in written:
            waiting.callback(None)

    def _not_written(self, failure: Failure) -> None:
        """A batch could not be written; its events are still in the ring."""
        if failure.check(Unwritable):
            reason = failure.getErrorMessage()
        else:
            reason = f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
        if self._error is None:
            if not failure.check(Unwritable):
                self._log.failure("the journal failed", failure=failure)
            self._log.error(
                "the journal in {directory} has stopped: {reason}. Commands are not affected; the"
                " journal resumes when it can be written, and records what it has missed as a gap",
                directory=self.directory,
                reason=reason,
            )
        self._error = reason
        written = self._written + self._next_written
        self._written, self._next_written = [], []
        if self._state is State.STOPPING:
            self._state = State.STOPPED
        else:
            self._state = State.UNWRITABLE
            self._call = self._reactor.callLater(RETRY, self._due)
        for waiting in written:
            waiting.errback(self._unwritable())

    def _continue(self) -> None:
        """Decide what follows a write."""
        if self._state is State.STOPPING and not self._next_written:
            self._state = State.STOPPED
        elif self._next_written:
            self._write()
        elif self._ring.next - 1 > self._cursor:
            self._delay()
        else:
            self._state = State.IDLE
            self._ring.wake(self._delay)
            self._call = self._reactor.callLater(IDLE, self._due)

    def _delay(self) -> None:
        """Write soon: there is an event in the ring."""
        self._cancel_calls()
        self._state = State.DELAYED
        self._call = self._reactor.callLater(FLUSH, self._due)

    def _due(self) -> None:
        self._call = None
        self._cancel_calls()
        self._write()

    def _cancel_calls(self) -> None:
        self._ring.cancel_wake(self._delay)
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _maintain(self) -> None:
        """Have a thread recover, seal and delete segments, as far as that is needed."""
        call, self._maintenance_call = self._maintenance_call, None
        if call is not None and call.active():
            call.cancel()
        if self._maintaining is not None or self._state in (State.STOPPED, State.STOPPING):
            # The check after a minute finds what has been added meanwhile.
            return
        self._maintaining = Deferred()
        self._in_thread(partial(self._maintenance.run, self._now())).addCallbacks(
            self._maintained, self._not_maintained
        )

    def _maintained(self, report: Report) -> None:
        self._report = report
        for gap in report.gaps:
            self._writer.add_gap(gap)
        for message in report.messages:
            self._log.warn("{text}", text=message)
        self._maintenance_ended()

    def _not_maintained(self, failure: Failure) -> None:
        self._log.failure("cannot maintain the journal", failure=failure)
        self._report = self._report._replace(busy=False)
        self._maintenance_ended()

    def _maintenance_ended(self) -> None:
        finished, self._maintaining = self._maintaining, None
        if self._state not in (State.STOPPED, State.STOPPING):
            delay = READ if self._report.busy else MAINTENANCE
            self._maintenance_call = self._reactor.callLater(delay, self._maintain)
        if finished is not None:
            finished.callback(None)

    def _stopped(self, _: object) -> None:
        if self._state is not State.STOPPED:
            self._log.error(
                "the journal in {directory} could not be closed within {seconds} s; the next start"
                " recovers it",
                directory=self.directory,
                seconds=STOP,
            )
        self._unlock()

    def _unlock(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            self._ring.spool_to(None)
            # What could not be written, the next start reads.
            spool.close(remove=self._state is State.STOPPED and self._error is None)
        claimed, self._claim = self._claim, None
        if claimed is not None:
            claimed.release()

    def _unwritable(self) -> JournalError:
        return JournalError(f"the journal in {self.directory} cannot be written: {self._error}")

    def _now(self) -> int:
        return microseconds_of(self._wall_clock())
