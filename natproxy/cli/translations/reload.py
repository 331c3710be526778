"""Makes a daemon read its settings again, or shows what that would change."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from difflib import ndiff
from json import dumps
from typing import Any

from natproxy.cli.translations.status import KINDS
from natproxy.client.control.finding import Search
from natproxy.client.errors import NotUnderstood
from natproxy.counts import counted
from natproxy.settings import one_line
from natproxy.toml_values import to_toml

WRONG = 2
"""The exit status if a setting is wrong, as that of ``natproxy config check``."""

HEADINGS = (
    ("changed", "changed:", "a reload changes:"),
    ("restart", "not changed, needs a restart:", "only a restart changes:"),
)
"""Members of the reply, with their headings after a reload, and before one."""


def reload(
    arguments: Namespace,
    complain: Callable[[str], object],
    dry_run: bool,
    as_json: bool = False,
) -> int:
    """Reload the settings of a daemon; return the exit status.

    :param complain: called with a message for people.
    :param dry_run: only show what a reload would change.
    :param as_json: write the daemon's reply.
    :raises ClientError: on failure of the connection.
    """
    daemon = Search().daemon(arguments.control, arguments.name)
    result = daemon.reload(dry_run)
    try:
        errors = [str(error) for error in result["errors"]]
        lines = [dumps(result)] if as_json else list(report(result, dry_run))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NotUnderstood(f"{one_line(daemon.path)}: the daemon sent malformed JSON") from None
    for line in lines:
        sys.stdout.write(line + "\n")
    for error in errors:
        complain(one_line(error))
    if errors and not dry_run:
        complain("the settings are not reloaded: nothing has changed")
    return WRONG if errors else 0


def report(result: Mapping[str, Any], dry_run: bool) -> Iterator[str]:
    """Yield the lines for the result of a reload; none if there are errors.

    :param result: the members of the reply.
    :raises KeyError: if a member is missing.
    """
    if result["errors"]:
        return
    replaced = result["replaced"]
    for one in replaced:
        yield replacement(one, dry_run, named=len(replaced) > 1)
    if not result["changed"] and not result["restart"]:
        yield "a reload changes no setting" if dry_run else "reloaded; no setting has changed"
        return
    for member, done, due in HEADINGS:
        if result[member]:
            yield due if dry_run else done
        for change in result[member]:
            yield from change_lines(change)


def replacement(one: Mapping[str, Any], dry_run: bool, named: bool) -> str:
    """Return the line about the workers of a daemon that a reload replaces.

    :param named: whether the kind of the daemon is shown.
    """
    kind = KINDS.get(one["daemon"], one["daemon"])
    workers = counted(one["workers"], "worker") + (f" of the {one_line(kind)}" if named else "")
    reasons = one_line(" and ".join(one["reasons"]))
    if dry_run:
        return f"{reasons}: a reload replaces {workers}"
    return f"{reasons}: {workers} {'is' if one['workers'] == 1 else 'are'} replaced"


def change_lines(change: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a setting that differs, in the manner of ``diff``."""
    setting, source = str(change["setting"]), one_line(str(change["source"]))
    old, new = (_lines_of(setting, change[name]) for name in ("old", "new"))
    lines = [line.rstrip("\n") for line in ndiff(old, new) if line.startswith(("- ", "+ "))]
    for number, line in enumerate(lines):
        comment = f"  # {source}" if number == len(lines) - 1 else ""
        yield f"  {one_line(line)}{comment}"


def _lines_of(setting: str, value: object) -> list[str]:
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return [f"[[{setting}]] {to_toml(one)}" for one in value]
    return [f"{setting} = {to_toml(value)}"]
