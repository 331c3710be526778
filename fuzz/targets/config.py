"""Configuration files of the daemons and the client: a ``SettingError``, or the same settings."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from tempfile import TemporaryDirectory

from twisted.internet.testing import MemoryReactorClock

from fuzz.oracles import is_safe
from natproxy.client.config import (
    SETTINGS,
    check_client_config,
    load_client_config,
    show_client_config,
)
from natproxy.client.errors import UsageError
from natproxy.daemon.config_fields import settings_of
from natproxy.daemon.config_report import CONFIGS, check_config, show_config
from natproxy.settings import SettingError

WORDS = [
    *("[proxy]", "[fileserver]", "[[proxy.rules]]", "action", "verbs", "names", "clients"),
    *("proxy.limits.client", "commands-per-second", "bytes-per-second", "tcp:", "unix:", "tls:"),
    *(setting.key for setting in SETTINGS),
    *(setting.key for kind in CONFIGS.values() for setting in settings_of(kind)),
]


def check(data: bytes) -> None:
    """Check a file."""
    path = written("natproxy.toml", data)
    for daemon, kind in CONFIGS.items():
        check_messages(check_config(MemoryReactorClock(), daemon, {}, path))
        try:
            config = kind.load(environment={}, file=path)
            shown = show_config(daemon, {}, path)
        except SettingError as error:
            assert error.messages
            check_messages(error.messages)
            continue
        # What is shown is a file with the same settings.
        again = kind.load(environment={}, file=written("again.toml", shown.encode()))
        assert again == config, shown
        if data:
            # A file that has become empty is refused at a reload.
            assert config.load_again() == config
    check_client(path)


def check_client(path: str) -> None:
    """Check it as the file of a client."""
    wrong = check_client_config({}, path)
    try:
        config = load_client_config({}, {}, path)
        shown = show_client_config({}, path)
    except UsageError as error:
        assert wrong
        check_messages((str(error),))
        return
    if "[redacted]" in shown:
        return
    again = load_client_config({}, {}, written("again.toml", shown.encode()))
    assert again._replace(sources={}) == config._replace(sources={})


def check_messages(messages: Iterable[str]) -> None:
    """Check that each message is one line that names the file, or an option with its default."""
    for message in messages:
        assert is_safe(message)
        assert directory().name in message or message.startswith("--")


@cache
def directory() -> TemporaryDirectory[str]:
    """Return the directory of the files, in memory if there is such a place."""
    return TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def written(name: str, data: bytes) -> str:
    """Write a file, and return its path."""
    path = os.path.join(directory().name, name)
    with open(path, "wb", opener=private) as file:
        file.write(data)
    return path


def private(path: str, flags: int) -> int:
    """Open a file that others cannot read."""
    return os.open(path, flags, 0o600)
