"""Who held a port: for one port, or for each line of standard input."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from json import dumps

from natproxy.cli.translations.query import Interval, interval_of, query_in, query_of
from natproxy.cli.translations.sentences import whois_line, whois_lines
from natproxy.cli.translations.sources import Source, report_missing, source_of
from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import NotUnderstood, UsageError
from natproxy.counts import counted
from natproxy.protocol import printable
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery

STATUSES = {FOUND: 0, NOBODY: 3, UNKNOWN: 10}
"""Exit statuses by results."""

BATCH = 500
"""Ports of one request."""

RECEIVED = 1 << 16
LONGEST_LINE = 4096

Line = tuple[int, "WhoisQuery | str"]
"""The number of a line, and what it means, or what is wrong with it."""


def write_one(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write who held the port of the command line; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    within = _within(arguments)
    if arguments.since is None and arguments.until is None:
        query = query_of(arguments.port, arguments.at, arguments.upstream, within)
    else:
        query = query_in(arguments.port, _interval(arguments), arguments.upstream)
    source = source_of(arguments, complain)
    for found in source.whois_each([query]):
        if arguments.json:
            sys.stdout.write(dumps(found.json()) + "\n")
        else:
            for line in whois_lines(query, found, isinstance(source, Daemon)):
                sys.stdout.write(line + "\n")
        report_missing(source, complain)
        return STATUSES.get(found.result, NotUnderstood.exit_status)
    raise NotUnderstood("the daemon sent no result")


def write_each(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Write who held the port of each line, in their order; return the exit status.

    A malformed line is reported and skipped. The status is 2 if there was one, else 10 if a
    result is unknown, else 3 if no client held a port.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    if arguments.since is not None or arguments.until is not None:
        raise UsageError("--since and --until: not with '-', where each line has its time")
    source = source_of(arguments, complain)
    results: Counter[str] = Counter()
    for batch in _batches(_lines(arguments)):
        queries: list[tuple[int, WhoisQuery]] = []
        for number, meaning in batch:
            if isinstance(meaning, str):
                complain(f"line {number}: {meaning}")
                results["malformed"] += 1
            else:
                queries.append((number, meaning))
        _write_batch(source, queries, arguments.json, results)
        sys.stdout.flush()
    if not arguments.json:
        parts = [f"{results[each]:,} {each}" for each in (*STATUSES, "malformed") if results[each]]
        complain(f"{counted(results.total(), 'line')}: {', '.join(parts) or 'none'}")
    if results["malformed"]:
        return UsageError.exit_status
    return STATUSES[next((each for each in (UNKNOWN, NOBODY) if results[each]), FOUND)]


def _write_batch(
    source: Source, queries: list[tuple[int, WhoisQuery]], as_json: bool, results: Counter[str]
) -> None:
    if not queries:
        return
    found = source.whois_each(query for _, query in queries)
    place = 0
    for (number, query), each in zip(queries, found, strict=False):
        place += 1
        results[each.result] += 1
        if as_json:
            members = {"line": number, "port": query.port, **each.json()}
            sys.stdout.write(dumps(members) + "\n")
        else:
            sys.stdout.write(whois_line(query, each, isinstance(source, Daemon)) + "\n")
    if place < len(queries):
        raise NotUnderstood(f"line {queries[place][0]}: the daemon sent no result")


def _within(arguments: Namespace) -> float:
    within: float = arguments.within
    if within and arguments.at is None and arguments.port != "-":
        raise UsageError("--within needs --at: a time around which to search")
    if within > 366 * 86400:
        raise UsageError("--within: at most 366 days")
    return within


def _interval(arguments: Namespace) -> Interval:
    if arguments.at is not None:
        raise UsageError("--at excludes --since and --until: both select a time")
    return interval_of(arguments.since, arguments.until)


def _lines(arguments: Namespace) -> Iterator[list[Line]]:
    """Yield the lines that have arrived on standard input together, parsed."""
    within = _within(arguments)
    number = 0
    for arrived in _arrivals(sys.stdin.fileno()):
        lines: list[Line] = []
        for data in arrived:
            number += 1
            text = data.decode("utf-8", "replace").strip()
            # Comments are skipped, so that a list can be annotated.
            if text and not text.startswith("#"):
                lines.append((number, _meaning(text, arguments, within)))
        yield lines


def _meaning(text: str, arguments: Namespace, within: float) -> WhoisQuery | str:
    """Return what a line means, or what is wrong with it."""
    # Spaces, or a comma as in CSV; a time may have both.
    place, *rest = re.split(r"\s*,\s*|\s+", text, maxsplit=1)
    at = rest[0] if rest else arguments.at
    try:
        return query_of(place, at, arguments.upstream, within if at is not None else 0.0)
    except UsageError as error:
        return printable(str(error).encode("utf-8", "surrogatepass"))


def _batches(arrivals: Iterator[list[Line]]) -> Iterator[list[Line]]:
    """Yield lines in groups of at most `BATCH`; none waits for lines that have not arrived."""
    for lines in arrivals:
        rest = iter(lines)
        while batch := list(islice(rest, BATCH)):
            yield batch


def _arrivals(descriptor: int) -> Iterator[list[bytes]]:
    """Yield the lines of each read.

    :raises UsageError: if a line is too long.
    """
    rest = b""
    while data := os.read(descriptor, RECEIVED):
        *lines, rest = (rest + data).split(b"\n")
        yield lines
        if len(rest) > LONGEST_LINE:
            raise UsageError(f"standard input: a line has more than {LONGEST_LINE} bytes")
    if rest:
        yield [rest]
