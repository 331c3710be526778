"""Accounts for every command of a soak: clients' logs, the journal, file servers' logs agree.

With a proxy that resumes, a command has a row for each of its tries, and a file server has a line
for each try that has reached it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.support.accounts import (
    CLOSE,
    LATE,
    UNFLUSHED,
    Line,
    Row,
    beside,
    by,
    client_key,
    command_key,
    grouped,
    natproxy,
    nearest,
    read_lines,
    read_rows,
)
from tests.support.fleet import Fault
from tests.support.soak import Soak, source
from tests.support.soak_client import Sent


class SoakAccounts:
    """What each party has recorded.

    :param logs: of the clients.
    :ivar sent: the clients' logs, without those of floods.
    :ivar floods: likewise, of floods: connections.
    :ivar commands: the rows of the journal, those of a command together, in the order of tries.
    :ivar lines: of the file servers, without checks of health.
    :ivar checks: the lines of those.
    :ivar counts: how commands were accounted for.
    :ivar wrong: a text for each command that is not.
    """

    def __init__(self, soak: Soak, logs: Iterable[Path]) -> None:
        sent = [one for log in logs for one in read_sent(log)]
        self.sent = [one for one in sent if one.role != "flood"]
        self.floods = [one for one in sent if one.role == "flood"]
        self.commands = grouped(read_rows(soak.place / "journal"))
        lines = [
            line for name in soak.servers for line in read_lines(soak.place / f"{name}.access")
        ]
        self.lines = [line for line in lines if line.verb != "FEAT"]
        self.checks = len(lines) - len(self.lines)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._first_tries: dict[Sent, Row] = {}
        self._faults = soak.faults
        self._sources = {source(number): name for number, name in enumerate(soak.servers, 1)}

    def check(self) -> None:
        """Account for all commands of all parties."""
        self._check_sent()
        self._check_lines()

    def during(self, began: float, ended: float, *kinds: str) -> list[Fault]:
        """Return the faults of some kinds, ``KIND TARGET``, that overlap a time.

        Their effects last longer than they: TCP waits longer with each loss.
        """
        return [
            fault
            for fault in self._faults
            if f"{fault.kind} {fault.target}" in kinds
            and fault.began - CLOSE <= ended
            and began <= fault.ended + CLOSE
        ]

    def tries_of(self, sent: Sent) -> list[Row]:
        """Return the rows of a command's tries, in order; none if it has no row."""
        row = self._first_tries.get(sent)
        return [] if row is None else self.commands[command_key(row)]

    def killed_after(self, moment: float) -> bool:
        """Return whether the proxy was killed so soon that what was due then may be missing."""
        return any(
            fault.kind == "kill"
            and fault.target in ("proxy", "worker")
            and -CLOSE <= fault.began - moment <= UNFLUSHED
            for fault in self._faults
        )

    def check_whois(self, lines: Sequence[Line], replies: Sequence[Mapping[str, Any]]) -> None:
        """Check who was behind the ports that file servers have seen.

        :param replies: for each line.
        """
        for line, reply in zip(lines, replies, strict=True):
            named = {(one["client"], one["name"]) for one in reply["translations"]}
            if (line.name.partition("/")[0], line.name) in named:
                self.counts["`whois`: the client and its command"] += 1
            else:
                self.wrong.append(f"whois {reply}: {line}")

    def _check_sent(self) -> None:
        found = by((tries[0] for tries in self.commands.values()), client_key)
        used: set[int] = set()
        for sent in self.sent:
            key = sent.client, sent.port, sent.verb, sent.name
            row = nearest(
                (one for one in found.get(key, ()) if id(one) not in used),
                lambda one, sent=sent: abs(one["began"] - sent.sent),  # type: ignore[misc]
                LATE,
            )
            if row is not None:
                used.add(id(row))
                self._first_tries[sent] = row
            self._check_one(sent, row)
        by_flood = by((one for tries in self.commands.values() for one in tries), connection_key)
        # The system reuses ports.
        for key, floods in by_connection(self.floods).items():
            rows = by_flood.get(key, [])
            used.update(map(id, rows))
            sent_at_most = sum(flood.commands for flood in floods)
            replies = sum(flood.replies for flood in floods)
            first_tries = sum((row["attempt"] or 1) == 1 for row in rows)
            right = replies <= first_tries <= sent_at_most
            self._count("ports of floods, with their rows", right, f"{first_tries} rows", floods)
        for tries in self.commands.values():
            right = id(tries[0]) in used
            self._count("commands of the journal that a client sent", right, "not sent", tries[0])

    def _check_one(self, sent: Sent, row: Row | None) -> None:
        title = f"{sent.status}, with its row"
        if sent.status == "wrong":
            self.wrong.append(f"wrong bytes: {sent}")
        elif row is None:
            # What a client has not seen the end of may never have reached the proxy.
            if sent.status in ("broken", "left"):
                self.counts[f"{sent.status}, not in the journal"] += 1
            else:
                self.wrong.append(f"no row: {sent}")
        elif sent.status == "completed":
            last = self.commands[command_key(row)][-1]
            # The proxy was killed between the last byte and the record of the end.
            right = last["outcome"] == "completed" or (
                last["outcome"] == "lost" and self.killed_after(sent.ended)
            )
            self._count(title, right, f"a row {last['outcome']}", sent)
        else:
            self.counts[title] += 1

    def _check_lines(self) -> None:
        """Find a row for each line of the file servers, and a line for each completed row."""
        by_port: dict[object, list[Row]] = defaultdict(list)
        tries = [row for each in self.commands.values() for row in each]
        for row in tries:
            by_port[row["nat"], row["nat_port"], row["name"]].append(row)
        seen: set[int] = set()
        for line in self.lines:
            row = nearest(
                by_port.get((*line.peer, line.name), ()),
                lambda one, line=line: beside(line, one),  # type: ignore[misc]
                CLOSE,
            )
            if row is None:
                self.wrong.append(f"no row: {line}")
            else:
                seen.add(id(row))
                right = row["client"] == line.name.partition("/")[0]
                self._count("lines of file servers with their try", right, f"row {row}", line)
        for row in tries:
            if row["outcome"] == "completed" and id(row) not in seen:
                server = self._sources[row["nat"]]
                end = row["finished"]
                unknown = bool(self.during(end - UNFLUSHED, end, f"kill {server}"))
                title = "unknown: tries without a line before a kill of the file server"
                self._count(title, unknown, "no line", row)

    def _count(self, title: str, right: bool, otherwise: str, what: object) -> None:
        if right:
            self.counts[title] += 1
        else:
            self.wrong.append(f"{otherwise}: {what}")


def connection_key(row: Row) -> tuple[object, ...]:
    return row["client"], row["client_port"]


def by_connection(sent: Iterable[Sent]) -> dict[tuple[object, ...], list[Sent]]:
    """Return what was sent from each port of a client."""
    found: dict[tuple[object, ...], list[Sent]] = defaultdict(list)
    for one in sent:
        found[one.client, one.port].append(one)
    return found


def whois(journal: Path, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return who was behind the port of each line, at its end."""
    ends = [datetime.fromtimestamp(line.ended, timezone.utc).isoformat() for line in lines]
    queries = "".join(
        f"{line.peer[0]}:{line.peer[1]} {end}\n" for line, end in zip(lines, ends, strict=True)
    )
    return natproxy("whois", "-", "--within=1", f"--journal={journal}", lines=queries)


def read_sent(path: Path) -> list[Sent]:
    with path.open() as file:
        return [Sent(**json.loads(line)) for line in file]
