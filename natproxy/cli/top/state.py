"""The state of ``natproxy top``: what is shown, and what keys do."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

from natproxy.cli.top.sampling import INTERVAL, Row, Sample, Sampler, Window
from natproxy.cli.translations.columns import Rates, identity_of, ordered
from natproxy.cli.translations.query import filter_text
from natproxy.cli.translations.sources import has_workers
from natproxy.cli.translations.texts import command_text, name_text, number_text, shown
from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import ClientError, UsageError
from natproxy.records.record import Record

PAGE = 10
"""Rows that the keys for pages move by."""

MOST = 1 << 30
"""More than there are rows."""

GROUPS: dict[str, Callable[[Record], str]] = {
    "client": lambda record: shown(record.client),
    "name": lambda record: name_text(record) or "-",
    "verb": lambda record: shown(record.verb),
}
"""What ``--by`` groups by."""

SORTS = {"a": "age", "b": "bytes", "r": "rate", "c": "client"}
"""The orders by their keys; groups are ordered by the number in flight, and by their names."""

STEPS = {"up": -1, "down": 1, "page up": -PAGE, "page down": PAGE, "home": -MOST, "end": MOST}
"""How far keys move the selection."""

MOST_TYPED = 2000


class Mode(enum.Enum):
    """What a key means."""

    COMMANDS = "a key is a command"
    FILTER = "keys edit the filter"
    KILL = "a key confirms or cancels the end of a command"
    ENDED = "the program ends"


class Top:
    """The state, and what changes it.

    :param text: of the filter.
    :param group: a key of `GROUPS`; ``None`` for the translations themselves.
    :ivar mode: what the next key means.
    :ivar text: of the filter in use.
    :ivar typed: of the filter that is edited.
    :ivar message: about the last key or sample; empty for none.
    :ivar paused: whether no samples are taken.
    :ivar failed: whether the last attempt to take one failed.
    :ivar rates: bytes per second of the translations, over the last samples.
    :ivar sample: the last one; ``None`` before the first one.
    """

    def __init__(
        self,
        daemon: Daemon,
        text: str = "",
        group: str | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.mode = Mode.COMMANDS
        self.group = group
        self.sort = "rate" if group else "age"
        self.text = text
        self.typed = ""
        self.message = ""
        self.paused = False
        self.failed = False
        self.rates: Rates = {}
        self.sample: Sample | None = None
        self.window = Window()
        self._daemon = daemon
        self._sampler = sampler or Sampler(daemon)
        self._selected: tuple[str, int, int | None] | None = None
        self._killed: Record | None = None

    @property
    def ended(self) -> bool:
        """Whether the user has quit."""
        return self.mode is Mode.ENDED

    @property
    def several(self) -> bool:
        """Whether the daemon has several workers."""
        return self.sample is not None and has_workers(self.sample.status)

    def update(self) -> None:
        """Take a sample, unless paused; a failure becomes the message."""
        if self.paused:
            return
        try:
            self.sample = self._sampler.sample(self.text)
        except ClientError as error:
            # The daemon may be restarted: the next sample is the first of another run.
            self.failed = True
            self._sampler.restart()
            self.message = str(error).splitlines()[0]
            return
        if self.failed:
            self.failed, self.message = False, ""
        self.window.add(self.sample)
        self.rates = self.window.rates()

    def records(self) -> list[Record]:
        """Return the translations in their order."""
        if self.sample is None:
            return []
        return ordered(self.sample.table, self.sort, self.rates)

    def rows(self) -> list[Row]:
        """Return the groups in their order."""
        assert self.group is not None
        rows = self.window.groups(GROUPS[self.group])
        rows.sort(key=lambda row: row.key)
        if self.sort == "age":
            rows.sort(key=lambda row: -row.in_flight)
        elif self.sort == "bytes":
            rows.sort(key=lambda row: -row.sent)
        elif self.sort == "rate":
            rows.sort(key=lambda row: (-row.rate, -row.finished))
        return rows

    def selected(self) -> int:
        """Return the index of the selected translation among `records`."""
        for place, record in enumerate(self.records()):
            if identity_of(record) == self._selected:
                return place
        return 0

    def update_once(self) -> None:
        """Take two samples: rates need both.

        :raises ClientError: if there is none.
        """
        self.update()
        time.sleep(INTERVAL)
        self.update()
        if self.sample is None or not self.sample.seconds:
            raise ClientError(self.message or "the daemon was restarted")

    def press(self, key: str) -> None:
        """Take a key: a character, or the name of another key such as ``up`` or ``enter``."""
        if self.mode is Mode.FILTER:
            self._edit(key)
        elif self.mode is Mode.KILL:
            self._confirm(key)
        elif self.mode is Mode.COMMANDS:
            self._command(key)

    def _command(self, key: str) -> None:
        self.message = ""
        if key == "q":
            self.mode = Mode.ENDED
        elif key in SORTS:
            self.sort = SORTS[key]
        elif key in STEPS:
            self._move(STEPS[key])
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "/":
            self.mode, self.typed = Mode.FILTER, self.text
        elif key == "g":
            choices = (None, *GROUPS)
            self.group = choices[(choices.index(self.group) + 1) % len(choices)]
        elif key == "k":
            self._choose()

    def _move(self, step: int) -> None:
        records = self.records()
        if records:
            place = min(max(0, self.selected() + step), len(records) - 1)
            self._selected = identity_of(records[place])

    def _choose(self) -> None:
        records = self.records()
        if self.group is not None:
            self.message = "only single commands can be ended: g shows them"
        elif records:
            # The selection stays where it is while the confirmation is open.
            self._killed = records[self.selected()]
            self._selected = identity_of(self._killed)
            self.mode = Mode.KILL

    @property
    def prompt(self) -> str:
        """What the user is prompted for; empty if for nothing."""
        if self.mode is Mode.FILTER:
            return f"filter: {shown(self.typed)}"
        if self.mode is Mode.KILL and self._killed is not None:
            return f"end {self._number(self._killed)} {command_text(self._killed)}? [y/N]"
        return ""

    def _confirm(self, key: str) -> None:
        self.mode = Mode.COMMANDS
        record, self._killed = self._killed, None
        if key not in ("y", "Y") or record is None:
            self.message = "nothing was ended"
            return
        try:
            # Another run of the daemon has other translations with the same numbers.
            run = f"boot '{record.boot}' and worker {record.worker}"
            selection = f"serial {record.serial} and {run}"
            ended = self._daemon.kill(filter=selection)
        except ClientError as error:
            self.message = str(error).splitlines()[0]
            return
        number = self._number(record)
        self.message = f"ended {number}" if ended else f"{number} had ended"

    def _number(self, record: Record) -> str:
        return f"#{number_text(record, self.several)}"

    def _edit(self, key: str) -> None:
        if key == "enter":
            try:
                self.text = filter_text([self.typed])
            except UsageError as error:
                self.message = str(error).splitlines()[0]
                return
            self.mode, self.message = Mode.COMMANDS, ""
            # What is shown is of another filter.
            self.paused = False
            self._sampler.restart()
            self.window.clear()
        elif key == "escape":
            self.mode, self.message = Mode.COMMANDS, ""
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif key == "clear":
            self.typed = ""
        elif len(key) == 1 and key.isprintable() and len(self.typed) < MOST_TYPED:
            self.typed += key
