"""Accounts for every command of a fleet: clients' log, journals and file servers' logs agree.

A command has a row for each of its tries, and a file server has a line for each try that has
reached it. A journal has all rows of a proxy that was killed: each event is in its spool before its
effects can be seen.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.fleet import Fleet, proxy_host, sources
from tests.support.fleet_client import Sent
from tests.support.twistd import environment

CLOSE = 1.0
"""Seconds by which the times of two programs may differ for one command."""

UNFLUSHED = 1.0
"""Seconds before the kill of a file server whose last lines may be missing: the access log is
flushed each 0.1 s, on a machine that is busy."""

LATE = 60.0
"""Seconds within which a command reaches a proxy: it is sent again when a link has been mended. A
connection has no name twice."""

Row = Mapping[str, Any]

SHIPPED = (
    *("client", "client_port", "nat", "nat_port", "upstream", "upstream_port", "verb", "name"),
    *("outcome", "bytes", "started", "ended", "serial", "command", "attempt"),
)
"""Members of a row that are the same in the database."""


class Line(NamedTuple):
    """A line of a file server's access log.

    :ivar ended: seconds since the epoch.
    :ivar peer: the other end as the server sees it: the proxy's port, or the client behind it.
    :ivar translation: boot and serial of the proxy, of a PROXY header; else ``-``.
    """

    server: str
    ended: float
    peer: tuple[str, int]
    verb: str
    name: str
    outcome: str
    duration: float
    translation: str

    @property
    def began(self) -> float:
        return self.ended - self.duration


class Accounts:
    """What each party has recorded.

    :ivar sent: the clients' log.
    :ivar rows: of each proxy's history.
    :ivar lines: of the file servers.
    :ivar counts: how commands were accounted for.
    :ivar wrong: a text for each command that is not.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.sent = read_sent(fleet.place / "clients.log")
        self.rows = {name: read_rows(fleet.place / f"{name}.journal") for name in fleet.proxies}
        self.lines = [
            line for name in fleet.servers for line in read_lines(fleet.place / f"{name}.access")
        ]
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._hosts = {
            proxy_host(number): name for number, name in enumerate(fleet.proxies, start=1)
        }
        self._nat_hosts = {
            host: name
            for number, name in enumerate(fleet.proxies, start=1)
            for host in sources(number)
        }
        self._kills: dict[str, list[float]] = defaultdict(list)
        for fault in fleet.faults:
            if fault.kind != "cut":
                self._kills[fault.target].append(fault.began)

    def check(self) -> None:
        """Account for all commands of all parties."""
        self._check_sent()
        self._check_lines()

    def killed_after(self, name: str, moment: float) -> bool:
        """Return whether a process was killed so soon that what was due then may be missing."""
        return any(-CLOSE <= kill - moment <= UNFLUSHED for kill in self._kills[name])

    def check_database(self, rows: Iterable[Row]) -> None:
        """Compare what was shipped with the journals: nothing is missing, nothing came twice."""
        shipped = by(rows, identity_of)
        for proxy in self.rows.values():
            for one in proxy:
                copies = shipped.pop(identity_of(one), [])
                right = [[copy[field] for field in SHIPPED] for copy in copies] == [
                    [one[field] for field in SHIPPED]
                ]
                self._count("rows in the database", right, f"shipped as {copies}", one)
        self.wrong += [f"in no journal: {copies}" for copies in shipped.values()]

    def check_whois(
        self, title: str, lines: Sequence[Line], answers: Sequence[Mapping[str, Any]]
    ) -> None:
        """Check who was behind the ports that file servers have seen.

        :param answers: for each line.
        """
        for line, answer in zip(lines, answers, strict=True):
            named = {(one["client"], one["name"]) for one in answer["translations"]}
            if (line.name.partition("/")[0], line.name) in named:
                self.counts[f"{title}: the client and its command"] += 1
            else:
                self.wrong.append(f"{title} {answer}: {line}")

    def _check_sent(self) -> None:
        """Find the rows of each command of the clients' log, and a command for all rows."""
        used: set[int] = set()
        commands = {name: grouped(rows) for name, rows in self.rows.items()}
        found = {
            name: by((tries[0] for tries in each.values()), client_key)
            for name, each in commands.items()
        }
        for sent in self.sent:
            proxy = self._hosts[sent.proxy]
            key = sent.client, sent.port, sent.verb, sent.name
            row = nearest(
                (one for one in found[proxy].get(key, ()) if id(one) not in used),
                lambda one, sent=sent: abs(one["began"] - sent.sent),  # type: ignore[misc]
                LATE,
            )
            if row is not None:
                used.add(id(row))
            if sent.status == "broken":
                self.counts["broken off"] += 1
            elif row is None:
                self.wrong.append(f"no row: {sent}")
            elif sent.status == "completed":
                last = commands[proxy][command_key(row)][-1]
                # The proxy was killed between the last byte and the record of the end.
                right = last["outcome"] == "completed" or (
                    last["outcome"] == "lost" and self.killed_after(proxy, sent.ended)
                )
                self._count("completed, with its row", right, f"a row {last['outcome']}", sent)
            else:
                self.counts["refused with an error, with its row"] += 1
        for each in commands.values():
            for tries in each.values():
                right = id(tries[0]) in used
                self._count("commands of journals that a client sent", right, "not sent", tries[0])
                numbers = [one["attempt"] or 1 for one in tries]
                complete = numbers == list(range(1, len(tries) + 1))
                retried = all(one["outcome"] == "retried" for one in tries[:-1])
                if len(tries) > 1:
                    self._count("commands with several tries", complete and retried, "tries", tries)

    def _check_lines(self) -> None:
        """Find a row for each line of the file servers, and a line for each completed row."""
        by_port: dict[object, list[Row]] = defaultdict(list)
        by_serial: dict[str, list[Row]] = defaultdict(list)
        for rows in self.rows.values():
            for one in rows:
                # What a proxy sends in place of a ``DOWNLOAD`` is a ``GET``.
                by_port[one["nat"], one["nat_port"], one["name"]].append(one)
                by_serial[f"{one['boot']}:{one['serial']}"].append(one)
        seen: set[int] = set()
        for line in self.lines:
            if line.translation == "-":
                key = (*line.peer, line.name)
                row = nearest(by_port.get(key, ()), lambda one, line=line: beside(line, one), CLOSE)  # type: ignore[misc]
            else:
                row = next(iter(by_serial.get(line.translation, ())), None)
            if row is None:
                self.wrong.append(f"no row: {line}")
            else:
                seen.add(id(row))
                # The directory of a file is the address of its only client.
                client = line.name.partition("/")[0]
                right = (row["client"], row["name"]) == (client, line.name)
                self._count("lines of file servers with their row", right, f"row {row}", line)
        servers = {line.server for line in self.lines}
        for rows in self.rows.values():
            for one in rows:
                if one["outcome"] == "completed" and id(one) not in seen:
                    unknown = any(self.killed_after(name, one["finished"]) for name in servers)
                    self._count("rows before a kill of the file server", unknown, "no line", one)

    def _count(self, title: str, right: bool, otherwise: str, what: object) -> None:
        if right:
            self.counts[title] += 1
        else:
            self.wrong.append(f"{otherwise}: {what}")


def nearest(candidates: Iterable[Row], distance: Callable[[Row], float], most: float) -> Row | None:
    """Return the candidate with the least distance, if that is not too long."""
    found = min(candidates, key=distance, default=None)
    return found if found is not None and distance(found) <= most else None


def beside(line: Line, row: Row) -> float:
    """Return the seconds by which the end of a line is outside of a translation."""
    return max(row["began"] - line.ended, line.began - row["finished"], 0.0)


def grouped(rows: Iterable[Row]) -> dict[object, list[Row]]:
    """Return the tries of each command, in order."""
    found = by(rows, command_key)
    for tries in found.values():
        tries.sort(key=lambda row: row["attempt"] or 1)
    return found


def command_key(row: Row) -> tuple[object, ...]:
    # A command with one try has no number of its own.
    number = row["serial"] if row["command"] is None else row["command"]
    return row["worker"], row["boot"], number


def identity_of(row: Row) -> tuple[object, ...]:
    return row["proxy"], row["worker"], row["boot"], row["seq"]


def client_key(row: Row) -> tuple[object, ...]:
    return row["client"], row["client_port"], row["verb"], row["name"]


def by(rows: Iterable[Row], key: Callable[[Row], object]) -> dict[object, list[Row]]:
    found: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def seconds(text: str) -> float:
    """Return a time of ISO 8601 as seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def read_sent(path: Path) -> list[Sent]:
    with path.open() as file:
        return [Sent(**json.loads(line)) for line in file]


def natproxy(*arguments: str, lines: str = "") -> list[dict[str, Any]]:
    """Run the command line; return the objects that it writes."""
    done = subprocess.run(
        [sys.executable, "-m", "natproxy", *arguments, "--json"],
        input=lines,
        capture_output=True,
        text=True,
        env=environment({}),
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout or done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_rows(journal: Path) -> list[Row]:
    """Return all commands of a journal, with their times in seconds."""
    rows = natproxy("history", f"--journal={journal}")
    for row in rows:
        row["began"] = seconds(row["started"])
        row["finished"] = seconds(row["ended"]) if row["ended"] else float("inf")
    return list(rows)


def read_lines(path: Path) -> list[Line]:
    """Return the lines of an access log; the last one of a process that was killed may be cut."""
    found = []
    for text in path.read_text().splitlines():
        words = text.split(" ")
        if len(words) == 14 and re.fullmatch(r"\S+Z", words[0]):
            host, _, port = words[1].rpartition(":")
            found.append(
                Line(
                    path.stem,
                    seconds(words[0]),
                    (host, int(port)),
                    words[4],
                    words[5],
                    words[7],
                    float(words[10]),
                    words[13],
                )
            )
    return found
