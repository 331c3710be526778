"""Sets the mode of an upstream, after a confirmation if no other takes commands."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable

from natproxy.cli.translations.confirmation import confirmed
from natproxy.cli.translations.sources import proxy_of, report_missing
from natproxy.cli.translations.texts import shown
from natproxy.cli.translations.upstreams import write
from natproxy.client.control.daemon import Daemon
from natproxy.client.errors import NotFound, UsageError
from natproxy.counts import counted
from natproxy.records.upstreams import DOWN, READY, UP, UpstreamRecord, UpstreamsRecord

INTERVAL = 0.1
"""Seconds between two looks at an upstream that is waited for."""

REPORT = 5.0
"""Seconds between two reports of what is waited for."""

EFFECTS = {
    "ready": "takes commands",
    "drain": "finishes its commands, and takes no more",
    "maintenance": "finishes its commands, takes no more, and is not checked",
}


def set_mode(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Set the mode of the upstream that the command line names; return the exit status.

    :param complain: called with a message for people.
    :raises NotFound: if there is no such upstream.
    :raises ClientError: on another failure.
    """
    mode, name = arguments.action, arguments.upstream
    if arguments.watch is not None:
        raise UsageError(f"upstreams {mode}: --watch only shows; --wait waits for the upstream")
    daemon = proxy_of(arguments)
    record = daemon.upstreams()
    if name is None:
        raise UsageError(f"upstreams {mode}: the name of an upstream is needed: {_names(record)}")
    if record.find(name) is None:
        raise NotFound(f"there is no upstream {shown(name)!r}; there are {_names(record)}")
    if mode != READY and not arguments.yes and _is_last(record, name):
        complain(
            f"{shown(name)} is the only upstream that takes commands:"
            " without it, they wait, and are then refused"
        )
        if not confirmed(f"Set {shown(name)} to {mode}?", "set its mode all the same"):
            complain("nothing was changed")
            return 1
    record = daemon.set_upstream_mode(name, mode)
    report_missing(daemon, complain)
    if arguments.wait:
        record = _wait(daemon, name, mode, complain)
    if arguments.json:
        write(record, daemon, as_json=True)
    upstream = record.find(name)
    if upstream is None or upstream.mode != mode:
        complain(f"{shown(name)} is waited for no longer: {_change(upstream)}")
        return 1
    complain(f"{shown(name)} {EFFECTS[mode]}: {_state(upstream)}")
    return 0


def _is_last(record: UpstreamsRecord, name: str) -> bool:
    """Return whether an upstream takes commands, and no other does."""
    return [each.name for each in record.upstreams if each.takes_commands] == [name]


def _wait(
    daemon: Daemon, name: str, mode: str, complain: Callable[[str], object]
) -> UpstreamsRecord:
    """Wait until an upstream has no command, or is up; return the upstreams then.

    It ends as well if another administrator sets another mode, or a reload removes the upstream.
    """
    reported = time.monotonic()
    while True:
        record = daemon.upstreams()
        upstream = record.find(name)
        if upstream is None or upstream.mode != mode:
            return record
        # A worker that does not reply may have commands.
        if not daemon.missing and (upstream.health == UP if mode == READY else not upstream.active):
            return record
        if time.monotonic() - reported >= REPORT:
            reported = time.monotonic()
            complain(f"{shown(name)}: {_state(upstream)}")
            report_missing(daemon, complain)
        time.sleep(INTERVAL)


def _change(upstream: UpstreamRecord | None) -> str:
    if upstream is None:
        return "a reload has removed it"
    return f"its mode is {shown(upstream.mode)}"


def _state(upstream: UpstreamRecord) -> str:
    """Return health and commands of an upstream."""
    error = upstream.last_error if upstream.health == DOWN else None
    reason = f" ({shown(error)})" if error else ""
    commands = counted(upstream.active, "command")
    return f"{shown(upstream.health)}{reason}, {commands} in flight"


def _names(record: UpstreamsRecord) -> str:
    return shown(record.names)
