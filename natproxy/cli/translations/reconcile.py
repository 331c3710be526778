"""The comparison of a proxy's table with its sockets as text."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from json import dumps
from typing import Any

from natproxy.cli.translations.sources import proxy_of
from natproxy.cli.translations.texts import shown
from natproxy.client.errors import NotUnderstood

STATUSES = {"same": 0, "differs": 1, "unknown": 10}
"""Exit statuses by results."""


def write_comparison(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Compare, and write what differs; return the exit status.

    :param complain: called with a message for people.
    :raises ClientError: on failure.
    """
    daemon = proxy_of(arguments)
    found = daemon.document("/v1/reconcile")
    status = STATUSES.get(str(found.get("result")))
    if status is None:
        raise NotUnderstood("the daemon sent no result of the comparison")
    if arguments.json:
        sys.stdout.write(dumps(found) + "\n")
    elif found["result"] == "unknown":
        complain(f"unknown: {shown(found.get('reason'))}")
    else:
        for line in comparison_lines(found):
            sys.stdout.write(line + "\n")
    return status


def comparison_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each difference, and one for the whole."""
    listed = 0
    for row in _members(found, "rows_without_socket"):
        listed += 1
        worker = f" of worker {shown(row['worker'])}" if "worker" in row else ""
        yield f"entry {shown(row.get('serial'))}{worker} has no socket: {_route(row)}"
    for row in _members(found, "sockets_without_row"):
        listed += 1
        yield f"socket has no entry: {_route(row)}"
    differences = found.get("differences")
    if isinstance(differences, int) and differences > listed:
        yield f"and {differences - listed} more"
    rows, sockets = shown(found.get("rows")), shown(found.get("sockets"))
    left_out = found.get("left_out")
    more = f"; entries of UNIX sockets, left out: {shown(left_out)}" if left_out else ""
    yield f"entries: {rows}, sockets: {sockets}, differences: {shown(differences)}{more}"


def _members(found: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    rows = found.get(name)
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping):
            yield row


def _route(row: Mapping[str, Any]) -> str:
    nat = f"{shown(row.get('nat'))} port {shown(row.get('nat_port'))}"
    return f"{nat} to {shown(row.get('upstream'))} port {shown(row.get('upstream_port'))}"
