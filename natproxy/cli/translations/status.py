"""The status of daemons as text."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from natproxy.cli.display.text import amount, duration
from natproxy.cli.translations.texts import precise, shown
from natproxy.cli.translations.upstreams import summary
from natproxy.client.control.daemon import Daemon
from natproxy.client.control.finding import Search
from natproxy.client.errors import ClientError
from natproxy.counts import counted
from natproxy.records.record import parse_time
from natproxy.records.times import show_local

SIZES = ("bytes", "size", "sent")
SECONDS = ("lag", "uptime")
TIMES = ("complete_to", "started")

SINGULARS = {"hits": "hit", "misses": "miss", "errors": "error"}
"""The words for counters that are 1."""

KINDS = {"fileserver": "file server"}


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
    """Yield the lines of a daemon's status: a title and its text, or more text below it."""
    for title, text in _facts(status):
        yield f"{title + ':' if title else '':<11} {text}"


def _facts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = str(status.get("kind"))
    version = shown(status.get("version"))
    yield "name", f"{shown(status.get('name'))} ({KINDS.get(kind, shown(kind))} {version})"
    worker = f", worker {shown(status['worker'])}" if status.get("worker") else ""
    yield "process", f"{shown(status.get('pid'))}{worker}, boot {shown(status.get('boot'))}"
    yield from _workers(status)
    uptime = status.get("uptime")
    up = f", {duration(uptime)} ago" if isinstance(uptime, (int, float)) else ""
    yield "started", f"{_time(status.get('started'))}{up}"
    yield "listens", _value("listen", status.get("listen"))
    if status.get("upstream") is not None:
        yield "upstream", _value("upstream", status["upstream"])
    upstreams = summary(status.get("upstreams"))
    if upstreams is not None:
        yield "upstreams", upstreams
    admission = _mapping(_mapping(status.get("counters")).get("clients"))
    most = f" of {_value('limit', admission['limit'])} at most" if admission.get("limit") else ""
    draining = ", draining" if status.get("draining") else ""
    yield "clients", f"{_value('clients', status.get('clients'))}{most}{draining}"
    refused = _counts(admission.get("refused"))
    if refused:
        yield "refused", refused
    denied = {
        f"by rule {rule}" if rule.isdigit() else f"by {rule}": count
        for rule, count in _mapping(_mapping(status.get("counters")).get("denied")).items()
    }
    if _counts(denied):
        yield "denied", _counts(denied)
    tokens = _counts(_mapping(status.get("counters")).get("authentication"))
    if tokens:
        yield "tokens", tokens
    yield from _limits(_mapping(_mapping(status.get("counters")).get("limits")))
    if status.get("table") is not None:
        yield "in flight", _value("table", status["table"])
    yield from _commands(_mapping(status.get("commands")))
    retries = _mapping(_mapping(status.get("counters")).get("retries"))
    names = ("retried", "interrupted", "resumed", "waiting")
    found = _counts({name: retries.get(name) for name in names})
    if found:
        yield "retries", found
    yield from _cache(_mapping(_mapping(status.get("counters")).get("cache")))
    ring = _mapping(status.get("ring"))
    first, following = ring.get("first"), ring.get("next")
    if isinstance(first, int) and isinstance(following, int):
        kept = f" ({first:,} to {following - 1:,})" if following > first else ""
        yield "events", f"{following - first:,} in memory{kept}"
    if "journal" in status:
        yield from _journal(_mapping(status["journal"]))
    access = _mapping(status.get("access_log"))
    if access:
        lost = f", {_counted(access['lost'], 'line')} lost" if access.get("lost") else ""
        error = f", {shown(access['error'])}" if access.get("error") else ""
        yield "access log", f"{shown(access.get('path'))}{lost}{error}"
    for member in ("control", "web"):
        if status.get(member):
            yield member, _value(member, status[member])


def _workers(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a line for each worker of a daemon; also for those that do not reply."""
    title = "workers"
    for each in map(_mapping, _list(status.get("workers"))):
        uptime = each.get("uptime")
        up = f", up {duration(uptime)}" if isinstance(uptime, (int, float)) else ""
        clients = f", {_counted(each.get('clients'), 'client')}"
        table = f", {_value('table', each['table'])} in flight" if "table" in each else ""
        draining = ", draining" if each.get("draining") else ""
        process = f"process {shown(each.get('pid'))}"
        yield title, f"{shown(each.get('worker'))}: {process}{up}{clients}{table}{draining}"
        title = ""
    for each in map(_mapping, _list(status.get("missing"))):
        reason = shown(each.get("reason"))
        yield title, f"{shown(each.get('worker'))}: does not reply: {reason}"
        title = ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _limits(limits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what was delayed and refused by each limit, and the clients that were over one."""
    delayed, refused = _mapping(limits.get("delayed")), _mapping(limits.get("refused"))
    title = "limits"
    if limits.get("waiting"):
        verb = "is" if limits["waiting"] == 1 else "are"
        yield title, f"{_counted(limits['waiting'], 'command')} {verb} delayed now"
        title = ""
    for name in sorted({*delayed, *refused}):
        counts = _counts({"delayed": delayed.get(name, 0), "refused": refused.get(name, 0)})
        yield title, f"{shown(name)}: {counts}"
        title = ""
    clients = limits.get("clients")
    for client in map(_mapping, clients if isinstance(clients, list) else ()):
        identity = f" ({shown(client['identity'])})" if client.get("identity") else ""
        counts = _counts({key: client.get(key, 0) for key in ("delayed", "refused")})
        age = client.get("age")
        ago = f", {duration(age)} ago" if isinstance(age, (int, float)) else ""
        last = f"{shown(client.get('limit'))}{ago}"
        yield title, f"{shown(client.get('client'))}{identity}: {counts}, {last}"
        title = ""


def _commands(commands: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the commands that have ended, and a line for each verb."""
    if "total" not in commands:
        return
    sent = f", {_value('sent', commands['sent'])} sent" if "sent" in commands else ""
    yield "commands", f"{_value('total', commands['total'])} ended{sent}"
    for verb, counts in sorted(_mapping(commands.get("verbs")).items()):
        found = _mapping(counts)
        outcomes = _counts({key: each for key, each in found.items() if key != "sent"})
        sent = f", {_value('sent', found['sent'])} sent" if found.get("sent") else ""
        yield "", f"{shown(verb)}: {outcomes or 'none'}{sent}"


def _cache(cache: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how often the cache of objects had a block, and what is wrong with it."""
    if not cache:
        return
    found = {name: cache.get(name, 0) for name in ("hits", "misses", "evicted")}
    size = f"{_value('bytes', cache['bytes'])} in it" if "bytes" in cache else ""
    yield "cache", ", ".join(filter(None, (_counts(found), size)))
    wrong = _counts({name: cache.get(name, 0) for name in ("refused", "errors")})
    if wrong:
        yield "", wrong


def _journal(journal: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield where the journal is, how much it holds, and what is wrong with it."""
    if not journal:
        yield "journal", "none"
        return
    yield "journal", shown(journal.get("directory"))
    facts = [
        _counted(journal[f"{name}s"], name)
        for name in ("row", "gap", "segment")
        if journal.get(f"{name}s") is not None
    ]
    if journal.get("bytes") is not None:
        facts.append(_value("bytes", journal["bytes"]))
    if facts:
        yield "", ", ".join(facts)
    if journal.get("complete_to") is not None:
        lag = f" (lag {_value('lag', journal['lag'])})" if "lag" in journal else ""
        yield "", f"complete to {_time(journal['complete_to'])}{lag}"
    if journal.get("error") is not None:
        yield "", f"error: {shown(journal['error'])}"


def _counts(counts: object) -> str:
    """Return the counters that are not 0, by their names; empty if all are."""
    return ", ".join(
        f"{_value('', number)} {shown(SINGULARS.get(name, name) if number == 1 else name)}"
        for name, number in _mapping(counts).items()
        if number not in (None, 0)
    )


def _counted(number: Any, noun: str) -> str:
    """Return a value that should be a number, with its noun."""
    return counted(number, noun) if isinstance(number, int) else f"{_value('', number)} {noun}s"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
