"""The actions of ``natproxy token``, on the file of a daemon."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable

from natproxy.client.errors import LocalError, UsageError
from natproxy.tokens.entries import (
    TokenEntry,
    TokenFileError,
    check_token_name,
    format_moment,
    load_tokens,
    new_token,
    parse_moment,
)
from natproxy.tokens.file import NoSuchToken, TokenExists, add_token, remove_token

SYSTEM_FILE = "/etc/natproxy/tokens"
"""The file of root."""

NO_SUCH_TOKEN = 3
"""Exit status, as of a file that is not found."""

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])")


def run(arguments: Namespace, complain: Callable[[str], object]) -> int:
    """Carry out an action, and return the exit status.

    :raises UsageError: if an argument is wrong.
    :raises LocalError: if the file cannot be used.
    """
    path: str = default_file() if arguments.file is None else arguments.file
    if (arguments.client is None) != (arguments.action == "list"):
        needed = "needs no CLIENT" if arguments.action == "list" else "needs a CLIENT"
        raise UsageError(f"token {arguments.action} {needed}")
    if arguments.expires is not None and arguments.action != "new":
        raise UsageError("--expires is an option of token new")
    if arguments.json and arguments.action != "list":
        raise UsageError("--json is an option of token list")
    try:
        if arguments.action == "new":
            return _new(path, arguments.client, arguments.expires, complain)
        if arguments.action == "list":
            return _list(path, arguments.json)
        return _revoke(path, arguments.client, complain)
    except TokenFileError as error:
        raise UsageError(f"{path}: {error}") from error
    except OSError as error:
        raise LocalError(os.fsencode(path), error) from error


def default_file() -> str:
    """Return the file that is used if none is named.

    :raises UsageError: if the user has no home directory.
    """
    if os.geteuid() == 0:
        return SYSTEM_FILE
    from natproxy.client.config import config_path

    config = config_path(os.environ)
    if config is None:
        raise UsageError("there is no home directory: name a file with --file")
    return os.path.join(os.path.dirname(config), "tokens")


def parse_expiry(text: str, now: float) -> int:
    """Return the seconds since the epoch at which a token expires.

    :param text: a time from now, such as ``90d``, or a date or a time.
    :raises UsageError: if it is malformed, or not in the future.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        return int(now) + int(span[1]) * _UNITS[span[2]]
    try:
        moment = parse_moment(text)
    except ValueError as error:
        raise UsageError(f"--expires {text}: {error}, or as a time from now, such as 90d") from None
    if moment <= now:
        raise UsageError(f"--expires {text}: is in the past")
    return moment


def _new(path: str, client: str, expires: str | None, complain: Callable[[str], object]) -> int:
    now = time.time()
    try:
        name = check_token_name(client)
    except ValueError as error:
        raise UsageError(f"{client!r}: {error}") from None
    token, entry = new_token(
        name, int(now), None if expires is None else parse_expiry(expires, now)
    )
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    try:
        add_token(path, entry)
    except TokenExists:
        raise UsageError(
            f"{name} has a token in {path}: revoke it first, or choose another name"
        ) from None
    # The output has the token alone, so that it can be redirected to a file.
    sys.stdout.write(token + "\n")
    sys.stdout.flush()
    complain(
        f"{path} has the digest of this token of {name}; the token is not shown again."
        " A daemon accepts it after a reload."
    )
    return 0


def _list(path: str, as_json: bool) -> int:
    now = time.time()
    for entry in load_tokens(path).entries:
        expired = entry.expired(now)
        if as_json:
            line = json.dumps({**_times(entry), "expired": expired})
        else:
            created = "-" if entry.created is None else format_moment(entry.created)
            expires = "never" if entry.expires is None else format_moment(entry.expires)
            state = " (expired)" if expired else ""
            line = f"{entry.name}  created {created}  expires {expires}{state}"
        sys.stdout.write(line + "\n")
    return 0


def _times(entry: TokenEntry) -> dict[str, str | None]:
    return {
        "name": entry.name,
        "created": None if entry.created is None else format_moment(entry.created),
        "expires": None if entry.expires is None else format_moment(entry.expires),
    }


def _revoke(path: str, client: str, complain: Callable[[str], object]) -> int:
    try:
        removed = remove_token(path, client)
    except NoSuchToken:
        complain(f"{path} has no token of {client!r}")
        return NO_SUCH_TOKEN
    tokens = "token" if removed == 1 else "tokens"
    verb = "refuses it" if removed == 1 else "refuses them"
    complain(f"{removed} {tokens} of {client} removed from {path}; a daemon {verb} after a reload")
    return 0
