"""The result of ``sync``: lines for people, events and a summary for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import islice

from natproxy.cli.display import Display
from natproxy.cli.output import write_line
from natproxy.client.errors import DeletionRefused, LocalError, ServerError
from natproxy.client.events import Event, Phase
from natproxy.client.transfer.batch import Totals
from natproxy.client.transfer.deletion import DeletionResult
from natproxy.client.transfer.plan import MirrorPlan, Obstacle
from natproxy.protocol import printable

MOST_LINES = 20
"""Lines about errors of one kind, for people; JSON has an event for each error."""

_UNREAD = "the server cannot read it: nothing was downloaded or deleted there"


class SyncReport:
    """The result of a ``sync``, which is filled in step by step.

    :ivar plan: the downloads and deletions that are needed.
    :ivar refusal: why nothing may be deleted; ``None`` if deletion is allowed.
    :ivar totals: the results of the downloads.
    :ivar deleted: the results of the deletions.
    """

    def __init__(self, plan: MirrorPlan) -> None:
        self.plan = plan
        self.refusal: DeletionRefused | None = None
        self.totals = Totals()
        self.deleted = DeletionResult(0, [])

    @property
    def incomplete(self) -> bool:
        """Whether a file that the server lists could not be downloaded: then nothing is deleted."""
        return bool(self.totals.failures or self.plan.obstacles or self.plan.blocked)

    @property
    def unchanged(self) -> int:
        """Number of files that stay as they are."""
        return self.plan.unchanged + self.totals.unchanged

    @property
    def exit_status(self) -> int:
        """The exit status of the first error that `complain` reports; 0 if there is none."""
        plan = self.plan
        failures = self.totals.failures
        here = LocalError.exit_status
        statuses = (
            (here, plan.obstacles or plan.blocked),
            (failures[0].error.exit_status if failures else 0, failures),
            (ServerError.exit_status, plan.unread or plan.incomplete),
            (here, plan.local_errors),
            (DeletionRefused.exit_status, self.refusal),
            (here, self.deleted.errors),
        )
        return next((status for status, present in statuses if present), 0)

    def show_missing(self, display: Display) -> None:
        """Show names that cannot be downloaded as failed files."""
        self.show_obstacles(display, self.plan.obstacles)
        for name in self.plan.unread:
            display(Event(name, Phase.FAILED, 0, None, _UNREAD))

    def show_obstacles(self, display: Display, obstacles: Iterable[Obstacle]) -> None:
        """Show obstacles as failed files."""
        for name, error in obstacles:
            display(Event(name, Phase.FAILED, 0, None, str(error)))

    def facts(self) -> dict[str, object]:
        """Return the summary for programs."""
        plan = self.plan
        unnamed = 0 if plan.incomplete is None else plan.incomplete.count
        deletions: dict[str, object] = {
            "planned": len(plan.extra),
            "deleted": self.deleted.number,
            "failed": len(self.deleted.errors),
            "refused": None if self.refusal is None else str(self.refusal),
        }
        return {
            "sync": {
                "fetched": self.totals.downloaded,
                "bytes": self.totals.received,
                "unchanged": self.unchanged,
                "failed": len(self.totals.failures),
                "obstacles": len(plan.obstacles),
                "blocked": plan.blocked,
                "unread": len(plan.unread) + unnamed,
                "unjudged": len(plan.local_errors),
                "left_out": plan.skipped,
                "unknown": plan.unknown,
                "deletions": deletions,
                "status": self.exit_status,
            }
        }

    def complain(self, complain: Callable[[str], object], delete: bool) -> None:
        """Report errors to people, with a limited number of lines for each kind.

        :param complain: called with each line.
        :param delete: whether deletions were requested.
        """
        plan = self.plan
        failures = self.totals.failures
        _report(complain, len(plan.obstacles), (str(each.error) for each in plan.obstacles))
        _report(complain, len(failures), (str(each.error) for each in failures))
        _report(
            complain,
            len(plan.unread),
            (f"{printable(name)}: {_UNREAD}" for name in plan.unread),
        )
        if plan.incomplete is not None:
            complain(f"{plan.incomplete}{': nothing deleted' if delete else ''}")
        _report(
            complain,
            len(plan.skipped_directories),
            (
                f"{printable(name)}: left out, with what is in it:"
                " a name of this form is one of an incomplete download here"
                for name in plan.skipped_directories
            ),
        )
        _report(complain, len(plan.local_errors), map(str, plan.local_errors))
        if self.refusal is not None:
            complain(str(self.refusal))
        elif delete and plan.extra and self.incomplete:
            complain("nothing deleted, since not everything could be downloaded")
        _report(complain, len(self.deleted.errors), map(str, self.deleted.errors))

    def complain_of_skipped(self, complain: Callable[[str], object]) -> None:
        """Report what was skipped, if there is no summary that contains it."""
        for count, what in self._skipped():
            if count:
                complain(f"{count} {what}")

    def _skipped(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.plan.skipped, "left out (incomplete downloads there)"),
            (self.plan.unknown, "left out (of a kind that this client does not know)"),
        )

    def write_plan(self, delete: bool) -> None:
        """Write what would be done to standard output."""
        plan = self.plan
        for one in plan.requests:
            sys.stdout.write(f"download {printable(one.path)}\n")
        for path in plan.directories:
            sys.stdout.write(f"create   {printable(plan.tree.path_of(path))}/\n")
        if delete and self.refusal is None and not self.incomplete:
            for each in plan.extra:
                sys.stdout.write(f"delete   {printable(plan.tree.path_of(each.path))}\n")

    def write_summary(self, delete: bool, place: bytes = b"") -> None:
        """Write a line about what was done to standard error.

        :param place: the local directory, if the command has several of them.
        """
        plan = self.plan
        facts = [
            f"{self.totals.downloaded} downloaded ({self.totals.received} bytes)",
            f"{self.unchanged} unchanged",
        ]
        if delete:
            facts.append(f"{self.deleted.number} deleted")
        for count, what in (
            *self._skipped(),
            (len(plan.obstacles) + plan.blocked, "with something in the way here"),
            (len(plan.unread), "that the server cannot read"),
            (len(plan.local_errors), "here that cannot be read"),
            (len(self.totals.failures), "failed"),
            (len(self.deleted.errors), "not deleted"),
        ):
            if count:
                facts.append(f"{count} {what}")
        label = f"{printable(place)}: " if place else ""
        write_line(sys.stderr, label + ", ".join(facts))


def _report(complain: Callable[[str], object], count: int, lines: Iterable[str]) -> None:
    for line in islice(lines, MOST_LINES):
        complain(line)
    if count > MOST_LINES:
        complain(f"and {count - MOST_LINES} more like this ('--progress json' has them all)")
