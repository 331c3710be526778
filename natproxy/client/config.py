"""The settings of the client that a user keeps in a file.

The file is ``$XDG_CONFIG_HOME/natproxy/config.toml`` (by default
``~/.config/natproxy/config.toml``), or the one that ``NATPROXY_CONFIG`` names. Its keys have
the names of the options. An option overrides an environment variable, that overrides the file,
and the file overrides the default. All values of the file must be valid, those that are
overridden as well. Without a file, this costs one ``stat``.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from natproxy.client.errors import UsageError
from natproxy.settings import (
    DEFAULT,
    ENVIRONMENT,
    FILE,
    OPTION,
    SECRET,
    Flag,
    Found,
    Rule,
    Setting,
    SettingError,
    Source,
    Table,
    Text,
    WholeNumber,
    resolve,
)

if TYPE_CHECKING:
    from natproxy.client.authentication import Token

DEFAULT_SERVER = "127.0.0.1:9000"

_RANKS = {OPTION: 0, ENVIRONMENT: 1, FILE: 2, DEFAULT.kind: 3}

VARIABLE = "NATPROXY_CONFIG"
"""The environment variable that names the file."""


class Server(Rule[str]):
    """The address of a server.

    A value of the environment is not checked here: a command whose path is a URL does not use it.
    """

    unit = "HOST:PORT"

    def parse(self, text: str) -> str:
        """Return the text as it is; see `Rule`."""
        return text

    def check(self, value: object) -> str:
        """Return the text of an address; see `Rule`."""
        from natproxy.address import Address, AddressError

        if not isinstance(value, str):
            raise ValueError("must be a string, HOST:PORT")
        if "\0" in value:
            raise ValueError("must not contain a NUL character")
        try:
            Address.parse(value)
        except AddressError as error:
            raise ValueError(error.reason) from None
        return value


class Timeout(Rule[float]):
    """A time-out in seconds."""

    unit = "seconds"

    def parse(self, text: str) -> float:
        """Return the seconds of a decimal number; see `Rule`."""
        try:
            value = float(text)
        except ValueError:
            raise ValueError("must be a number of seconds") from None
        return self.check(value)

    def check(self, value: object) -> float:
        """Return the seconds of a number; see `Rule`."""
        from natproxy.client.retry import TIMEOUT_RULE, is_timeout

        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError("must be a number of seconds")
        if not is_timeout(value):
            raise ValueError(TIMEOUT_RULE)
        return float(value)


class Duration(Rule[float]):
    """A duration as a number of seconds, or as text: ``90s``, ``30m``, ``2h``, ``inf``."""

    unit = "seconds, or a duration such as 30m"

    def check(self, value: object) -> float:
        """Return seconds; see `Rule`."""
        from natproxy.client.retry import DURATION_RULE, parse_duration

        # No float can hold an integer of hundreds of digits.
        with suppress(ValueError, OverflowError):
            if isinstance(value, str):
                return parse_duration(value)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
                return float(value)
        raise ValueError(DURATION_RULE)

    def show(self, value: float) -> str:
        """Return the duration in seconds; see `Rule`."""
        return "inf" if value == math.inf else super().show(value)


class Path(Rule[str]):
    """The path of a local file; ``~`` at its beginning is a home directory."""

    def check(self, value: object) -> str:
        """Return a path; see `Rule`."""
        return os.path.expanduser(Text().check(value))


class Secret(Rule["Token"]):
    """A token, which no message and no output shows."""

    unit = "token"
    secret = True

    def check(self, value: object) -> Token:
        """Return the token of a text; see `Rule`."""
        from natproxy.client.authentication import Token

        if isinstance(value, str):
            with suppress(UsageError):
                return Token(value)
        raise ValueError("must be one word of at most 256 printable ASCII characters")

    def plain(self, value: Token) -> object:
        """Return what is shown in place of a token; see `Rule`."""
        return SECRET


SETTINGS = (
    Setting("server", Server(), "NATPROXY_SERVER", DEFAULT_SERVER),
    Setting("timeout", Timeout(), "NATPROXY_TIMEOUT", 60.0),
    Setting("connect-timeout", Timeout(), "NATPROXY_CONNECT_TIMEOUT"),
    Setting("retry-for", Duration(), "NATPROXY_RETRY_FOR"),
    Setting("retries", WholeNumber(0, 1000), "NATPROXY_RETRIES"),
    Setting("wait", Flag(), "NATPROXY_WAIT", False),
    Setting("tls", Flag(), "NATPROXY_TLS", False),
    Setting("ca", Path(), "NATPROXY_CA", otherwise="the system's authorities"),
    Setting("cert", Path(), "NATPROXY_CERT"),
    Setting("key", Path(), "NATPROXY_KEY"),
    Setting("insecure", Flag(), "NATPROXY_INSECURE", False),
    Setting("token", Secret(), "NATPROXY_TOKEN"),
    Setting("token-file", Path(), "NATPROXY_TOKEN_FILE"),
    Setting("token-plain", Flag(), "NATPROXY_TOKEN_PLAIN", False),
)
"""All settings of the client."""


class ClientConfig(NamedTuple):
    """The effective settings of the client.

    :ivar server: address of the server: ``HOST:PORT`` or ``natproxy://HOST:PORT``.
    :ivar timeout: seconds that the server may be silent.
    :ivar connect_timeout: seconds to wait for a connection; ``None``: 10, or ``timeout`` if that
        is shorter.
    :ivar retry_for: seconds for which temporary failures are retried without progress, by
        every command that retries; ``None``: the command's own default.
    :ivar retries: consecutive failures before giving up; ``None`` for any number.
    :ivar wait: whether a server that has never been connected to is waited for.
    :ivar tls: whether every server needs TLS, whatever the scheme of its URL is.
    :ivar ca: path of the trusted authorities; see `natproxy.tls.options.TLSOptions`.
    :ivar cert: path of the certificate to show.
    :ivar key: path of its private key.
    :ivar insecure: whether any certificate of the server is accepted.
    :ivar token: for ``server``; see `natproxy.client.authentication.Authentication`.
    :ivar token_file: path of the file that has the token, if ``token`` is ``None``.
    :ivar token_plain: whether it may be sent to another host without TLS that verifies the server.
    :ivar sources: where each value comes from, by its name in this class.
    """

    server: str
    timeout: float
    connect_timeout: float | None
    retry_for: float | None
    retries: int | None
    wait: bool
    tls: bool
    ca: str | None
    cert: str | None
    key: str | None
    insecure: bool
    token: Token | None
    token_file: str | None
    token_plain: bool
    sources: Mapping[str, Source]


def load_client_config(
    options: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: str | None = None,
) -> ClientConfig:
    """Return the effective settings of the client.

    :param options: those of the command line that the user has specified, parsed and checked,
        by their names in `ClientConfig`.
    :param environment: ``os.environ`` by default.
    :param file: to read in place of the user's; it must exist.
    :raises UsageError: if a value is wrong, a key is unknown, or the file cannot be read; the
        text is one line that names the source.
    """
    try:
        found = _resolve(options or {}, environment, file)
    except SettingError as error:
        raise UsageError(str(error)) from error
    values: dict[str, Any] = {field: value for field, (value, _) in found.items()}
    return ClientConfig(**values, sources={field: source for field, (_, source) in found.items()})


def show_client_config(
    environment: Mapping[str, str] | None = None, file: str | None = None
) -> str:
    """Return the effective settings of the client as TOML, each with its source in a comment.

    :raises SettingError: if one is wrong; it has a message for each.
    """
    from natproxy.toml import format_settings

    return format_settings(SETTINGS, _resolve({}, environment, file))


def check_client_config(
    environment: Mapping[str, str] | None = None, file: str | None = None
) -> list[str]:
    """Return a line for each setting of the client that is wrong."""
    try:
        found = _resolve({}, environment, file)
    except SettingError as error:
        return list(error.messages)
    value, source = found["server"]
    try:
        # That of the environment has not been parsed yet.
        Server().check(value)
    except ValueError as error:
        return [f"{source.label} {value}: {error}"]
    return []


def config_path(environment: Mapping[str, str]) -> str | None:
    """Return the path of the user's file if ``NATPROXY_CONFIG`` names no other.

    :return: ``None`` if the user has no home directory.
    """
    base = environment.get("XDG_CONFIG_HOME", "")
    # A relative path is invalid there, and a home directory that is unknown remains ``~``: no
    # settings are read from the working directory, which another user may own.
    if not os.path.isabs(base):
        home = environment.get("HOME") or os.path.expanduser("~")
        base = os.path.join(home, ".config")
    return os.path.join(base, "natproxy", "config.toml") if os.path.isabs(base) else None


def _resolve(
    options: Mapping[str, object], environment: Mapping[str, str] | None, file: str | None
) -> dict[str, Found]:
    environment = os.environ if environment is None else environment
    table = _table(environment, file)
    overridden = {setting.variable for setting in SETTINGS if setting.field in options}
    effective = {name: text for name, text in environment.items() if name not in overridden}
    found = resolve(SETTINGS, {}, effective, table)
    for setting in SETTINGS:
        if setting.field in options:
            found[setting.field] = Found(options[setting.field], Source(OPTION, setting.option))
    _choose_token(found, table)
    return found


def _choose_token(found: dict[str, Found], table: Table | None) -> None:
    """Leave one of the token and its file, as they may be of different sources.

    :raises SettingError: if the token is in a file that other users can read.
    """
    token, file = found["token"].source, found["token_file"].source
    if _RANKS[file.kind] < _RANKS[token.kind]:
        found["token"] = Found(None, DEFAULT)
    elif token.kind != DEFAULT.kind:
        found["token_file"] = Found(None, DEFAULT)
    if found["token"].source.kind == FILE and table is not None:
        mode = stat.S_IMODE(os.stat(table.path).st_mode)
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            raise SettingError(
                f"{token.label}: other users can read the file (mode {mode:04o}): chmod go-rwx"
            )


def _table(environment: Mapping[str, str], file: str | None) -> Table | None:
    named = environment.get(VARIABLE) or None if file is None else file
    path = config_path(environment) if named is None else named
    if path is None or (named is None and not os.path.exists(path)):
        return None
    from natproxy.toml import read_toml

    return Table(path, "", read_toml(path))
