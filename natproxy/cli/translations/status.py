"""The status of daemons as text."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from natproxy.cli.display.text import amount, duration
from natproxy.cli.translations.texts import precise, shown
from natproxy.client.control.daemon import Daemon
from natproxy.client.control.finding import Search
from natproxy.client.errors import ClientError
from natproxy.records.record import parse_time
from natproxy.records.times import show_local

SIZES = ("bytes", "size", "sent")
SECONDS = ("lag", "uptime")
TIMES = ("complete_to", "started")

TITLES = {"clients": "admission", "total": "commands"}
"""Of the counters: another line has the number of clients."""


def write_status(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write the status of the selected daemon, else of all that run; return the exit status.

    :param complain: called with a message about a daemon that fails to reply.
    :raises ClientError: if there is none, or the selected one fails.
    """
    search = Search()
    path = search.path_of(arguments.control, arguments.name)
    running = [] if path is not None else search.running(arguments.name)
    paths = [place.path for place in running] if path is None else [path]
    exit_status = 0
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            found.append(Daemon(path).status())
        except ClientError as error:
            if len(paths) == 1:
                raise
            complain(str(error))
            exit_status = error.exit_status
    if arguments.json:
        from natproxy.cli.records import write_json

        write_json(found)
    else:
        for place, status in enumerate(found):
            sys.stdout.write("\n" if place else "")
            for line in status_lines(status):
                sys.stdout.write(line + "\n")
    return exit_status


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a daemon's status: a member to a line, its title first."""
    for title, text in _facts(status):
        yield f"{title + ':':<11} {text}"


def _facts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = shown(status.get("kind"))
    worker = f", worker {status['worker']}" if status.get("worker") else ""
    yield "name", f"{shown(status.get('name'))} ({kind} {shown(status.get('version'))})"
    yield "process", f"{shown(status.get('pid'))}{worker}, boot {shown(status.get('boot'))}"
    uptime = status.get("uptime")
    up = f", {duration(uptime)} ago" if isinstance(uptime, (int, float)) else ""
    yield "started", f"{_time(status.get('started'))}{up}"
    yield "listens", _value("listen", status.get("listen"))
    if status.get("upstream") is not None:
        yield "upstream", _value("upstream", status["upstream"])
    draining = ", draining" if status.get("draining") else ""
    yield "clients", f"{shown(status.get('clients'))}{draining}"
    if status.get("table") is not None:
        yield "in flight", shown(status["table"])
    counters = status.get("commands")
    if isinstance(counters, Mapping):
        yield from _counters(counters)
    if status.get("ring"):
        yield "ring", _value("ring", status["ring"])
    if "journal" in status:
        journal = status["journal"]
        yield "journal", "none" if journal is None else _value("journal", journal)
    for member in ("control", "web"):
        if status.get(member):
            yield member, _value(member, status[member])


def _counters(counters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the counters that are numbers, by their groups; histograms are for programs."""
    for group, value in counters.items():
        text = _value(group, _without_histograms(value))
        if text != "none":
            yield TITLES.get(group, shown(group).replace("_", " ")), text


def _without_histograms(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "bounds" in value:
        return None
    kept = {key: _without_histograms(each) for key, each in value.items()}
    return {key: each for key, each in kept.items() if each not in (None, {}, 0)}


def _value(name: str, value: Any) -> str:
    """Return a value of JSON in one line."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        parts = [
            f"{shown(key)} {_value(str(key), each)}"
            for key, each in value.items()
            if each is not None
        ]
        # Where a part has parts of its own, a comma is ambiguous.
        nested = any(isinstance(each, Mapping) for each in value.values())
        return ("; " if nested else ", ").join(parts) or "none"
    if isinstance(value, list):
        return ", ".join(_value(name, each) for each in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if name in SIZES:
            return amount(value)
        if name in SECONDS:
            return precise(value)
        return f"{value:,}"
    return _time(value) if name in TIMES else shown(value)


def _time(value: object) -> str:
    try:
        return show_local(parse_time(str(value)))
    except ValueError:
        return shown(value)
