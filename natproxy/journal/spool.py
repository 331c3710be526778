"""The spool: a file in memory to which each event is written before its effects can be seen.

The journal's segments have an event a quarter of a second after it. Until then it is in the spool:
what a process has written to a mapped file remains when the process is killed, because the pages
belong to the kernel. They are not flushed to the disk, so that a loss of power loses them.

The file is ``wWORKER-BOOT.spool`` beside the segments, of a fixed size, and locked (``flock``) as
long as its process lives. It has a header and two regions. Events are appended to one region while
a thread writes those of the other one to the segment; then that one is overwritten with zeros. All
calls come from the reactor's thread.

A record has its number (``seq``) at its end, and that is written last: a record that was being
written when the process was killed is recognized, wherever it was interrupted. A version of the
program that changes a record changes `VERSION`.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.logger import Logger

from natproxy.journal.space import Unwritable, check_space, reason_of
from natproxy.journal.spool_format import (
    COMPLETE_AT,
    HEADER,
    MAGIC,
    NAMED,
    NEW,
    OTHER,
    PREFIX,
    REGISTERED,
    REGISTRATION,
    RELAY,
    RELAYING,
    REMOVAL,
    REMOVED,
    ROW,
    TRANSITIONS,
    VERSION,
    Description,
    Input,
    State,
    kernel_boot,
    spool_path,
)
from natproxy.nat.entry import NATEntry
from natproxy.nat.ring import EventRing
from natproxy.protocol import Command
from natproxy.records.event_rows import NAME, ROUTE, SEQ, Row

LONG_LINE = 512
"""Bytes of a command from which on its texts are stored as records have them, and not the line."""


class Spool:
    """The spool of this process.

    :param directory: of the journal, which is locked.
    :param description: of it; the run of the kernel is added.
    :param texts: returns verb and name of a command as records have them.
    :param names: whether the names of files may be stored.
    :raises Unwritable: if too little space would remain for others.
    :raises OSError: if it cannot be made.
    """

    log = Logger()

    def __init__(
        self,
        directory: str,
        description: Description,
        texts: Callable[[Command], tuple[str, str]],
        names: bool = True,
    ) -> None:
        origin, region = description.origin, description.region
        self._path = spool_path(directory, origin.worker, origin.boot)
        self._texts = texts
        # A line longer than this is not stored as it is.
        self._longest = LONG_LINE if names else -1
        self._names = names
        self._state = State.RECORDING
        self._region = 0
        self._starts = (HEADER, HEADER + region)
        self._ends = (HEADER + region, HEADER + 2 * region)
        # Of the region that is not appended to: the end of its records, and the number of the last.
        self._filled = [HEADER, HEADER + region]
        self._lasts = [0, 0]
        self._at, self._end = self._starts[0], self._ends[0]
        self._zeros = memoryview(bytes(region))
        self._descriptor = -1
        check_space(directory)
        new = f"{self._path}{NEW}"
        self._descriptor = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            # A page without space on the disk would end the process when it is written to.
            os.posix_fallocate(self._descriptor, 0, self._ends[1])
            self._map = mmap.mmap(self._descriptor, self._ends[1])
            text = description._replace(kernel=kernel_boot()).format()
            head = PREFIX.pack(MAGIC, VERSION, 1, 0, len(text)) + text
            if len(head) > HEADER:
                raise OSError(0, "the name of the daemon is too long")
            self._map[: len(head)] = head
            os.rename(new, self._path)
        except BaseException:
            with suppress(OSError):
                os.unlink(new)
            os.close(self._descriptor)
            raise

    @property
    def state(self) -> State:
        """Whether it has every event that no segment has."""
        return self._state

    # In the path of a command: without calls that can be avoided. An event that cannot be stored,
    # by whatever mistake, ends the spool: what is in it would not be complete.

    def registered(self, seq: int, entry: NATEntry, wall: float) -> None:
        """Add the registration of an entry.

        :param seq: number of the event.
        :param wall: seconds since the epoch.
        """
        try:
            # Named tuples are unpacked by an iterator, which takes longer than an index.
            client, key = entry.client_address, entry.key
            local, upstream = key[0], key[1]
            command, kind = entry.command.line, REGISTERED
            if len(command) > self._longest:
                command, kind = self._named(entry.command), NAMED
            text = f"{client[0]}\0{local[0]}\0{upstream[0]}\0{entry.identity or ''}".encode(
                "utf-8", _ERRORS
            )
            if entry.earlier is not None:
                text += ("\0" + " ".join(map(str, entry.earlier))).encode("utf-8", _ERRORS)
            at = self._at
            start = at + _REGISTRATION
            stop = start + len(text) + len(command)
            if stop > self._end:
                if self._next_region(seq):
                    self.registered(seq, entry, wall)
                return
            memory = self._map
            memory[start:stop] = text + command
            _PACK_REGISTRATION(
                memory,
                at,
                stop - at,
                kind,
                entry.serial,
                wall,
                entry.registered_at - entry.started_at,
                client[1],
                local[1],
                upstream[1],
                len(text),
                seq,
            )
            self._at = stop
        except Exception:
            self._fail()

    def relaying(self, seq: int, entry: NATEntry, wall: float, now: float) -> None:
        """Add that the header of an entry's reply has been received; see `registered`.

        :param now: seconds of the table's clock.
        """
        try:
            at = self._at
            stop = at + _RELAY
            if stop > self._end:
                if self._next_region(seq):
                    self.relaying(seq, entry, wall, now)
                return
            promised = entry.promised
            _PACK_RELAY(
                self._map,
                at,
                _RELAY,
                RELAYING,
                entry.serial,
                wall,
                -1 if promised is None else promised,
                now - entry.started_at,
                seq,
            )
            self._at = stop
        except Exception:
            self._fail()

    def removed(self, seq: int, entry: NATEntry, wall: float, now: float) -> None:
        """Add that an entry has been removed; see `relaying`."""
        try:
            at, reason = self._at, entry.reason
            promised, outcome = entry.promised, entry.outcome
            start = stop = at + _REMOVAL
            if reason is not None:
                text = _encoded(reason)
                stop += len(text)
            if stop > self._end:
                if self._next_region(seq):
                    self.removed(seq, entry, wall, now)
                return
            memory = self._map
            if reason is not None:
                memory[start:stop] = text
            _PACK_REMOVAL(
                memory,
                at,
                stop - at,
                REMOVED,
                entry.serial,
                wall,
                -1 if promised is None else promised,
                entry.relayed,
                now - entry.started_at,
                b"" if outcome is None else outcome._value_.encode(),
                reason is not None,
                seq,
            )
            self._at = stop
        except Exception:
            self._fail()

    def row(self, row: Row) -> None:
        """Add any other event."""
        try:
            values: list[Any] = list(row)
            if values[ROUTE] is not None and not self._names:
                values[ROUTE] = [*values[ROUTE][:NAME], "", *values[ROUTE][NAME + 1 :]]
            seq, text = row[SEQ], json.dumps(values).encode("ascii")
            at = self._at
            start = at + ROW.size
            stop = start + len(text)
            if stop > self._end:
                if self._next_region(seq):
                    self.row(row)
                return
            self._map[start:stop] = text
            ROW.pack_into(self._map, at, stop - at, OTHER, seq)
            self._at = stop
        except Exception:
            self._fail()

    def taken(self, last: int) -> None:
        """Append to the other region from now on, if that is empty: a batch was taken.

        :param last: number of the last event so far, which is in the batch.
        """
        other = 1 - self._region
        if self._state is State.CLOSED or self._filled[other] > self._starts[other]:
            return
        if self._at > self._starts[self._region] or self._state is State.FULL:
            self._switch(last)
            self._change(Input.EMPTY_REGION)

    def written(self, last: int) -> None:
        """Free what is in a segment now.

        :param last: number of its last event, as that of `taken`.
        """
        if self._state is State.CLOSED:
            return
        for region, start in enumerate(self._starts):
            filled = self._filled[region]
            if filled > start and self._lasts[region] <= last:
                # Nothing of a client remains.
                self._map[start:filled] = self._zeros[: filled - start]
                self._filled[region] = start
        self._change(Input.WRITTEN)

    def close(self, *, remove: bool) -> None:
        """Stop recording; a second call has no effect.

        :param remove: whether the file is removed, as a segment has all of it. Otherwise, the next
            start of the daemon reads it.
        """
        if self._state is State.CLOSED:
            return
        self._change(Input.CLOSE)
        self._end = 0
        if remove:
            with suppress(OSError):
                os.unlink(self._path)
        self._map.close()
        os.close(self._descriptor)

    def _named(self, command: Command) -> bytes:
        """Return verb and name of a command."""
        verb, name = self._texts(command)
        return _encoded(f"{verb}\0{name if self._names else ''}")

    def _fail(self) -> None:
        self.log.failure("cannot write an event to the spool of the journal; it is removed")
        self.close(remove=True)

    def _next_region(self, seq: int) -> bool:
        """Find a place for an event; return whether it may be added now.

        :param seq: its number.
        """
        other = 1 - self._region
        if self._state in (State.FULL, State.CLOSED):
            return False
        if self._filled[other] == self._starts[other] and self._at > self._starts[self._region]:
            self._switch(seq - 1)
            return True
        self._filled[self._region], self._lasts[self._region] = self._at, seq - 1
        self._end = 0
        self._change(Input.NO_SPACE)
        return False

    def _switch(self, last: int) -> None:
        """Append to the other region, which is empty.

        :param last: number of the last event before.
        """
        region = self._region
        if self._state is not State.FULL:
            self._filled[region], self._lasts[region] = self._at, last
        self._region = region = 1 - region
        self._at, self._end = self._starts[region], self._ends[region]

    def _change(self, event: Input) -> None:
        before, self._state = self._state, TRANSITIONS[self._state][event]
        complete = self._state is State.RECORDING
        if complete is not (before is State.RECORDING) and self._state is not State.CLOSED:
            self._map[COMPLETE_AT] = complete


def open_spool(ring: EventRing, directory: str, boot_started: int, names: bool) -> Spool | None:
    """Have each event of a ring in a spool from now on, before its effects can be seen.

    :param boot_started: when the daemon started, in microseconds since the epoch.
    :param names: whether the names of files may be stored.
    :return: ``None`` if there is no space; then the last events before a kill are a gap.
    """
    description = Description(ring.origin, boot_started, ring.every_name)
    try:
        spool = Spool(directory, description, ring.verb_and_name, names)
    except (OSError, Unwritable) as error:
        Spool.log.warn(
            "no spool for the journal in {directory}: {reason}. If the daemon is killed, the"
            " commands of its last quarter of a second are not in the journal",
            directory=directory,
            reason=reason_of(error) if isinstance(error, OSError) else error,
        )
        return None
    ring.spool_to(spool)
    return spool


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", _ERRORS)


# A text may have a lone surrogate, such as that of an administrator's filter.
_ERRORS = "surrogatepass"

_REGISTRATION, _RELAY, _REMOVAL = REGISTRATION.size, RELAY.size, REMOVAL.size
_PACK_REGISTRATION = REGISTRATION.pack_into
_PACK_RELAY = RELAY.pack_into
_PACK_REMOVAL = REMOVAL.pack_into
