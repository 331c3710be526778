"""The settings that both daemons have, and how the settings of a daemon are loaded and compared.

The frozen records of the daemons are `natproxy.daemon.proxy_config.ProxyConfig` and
`natproxy.daemon.fileserver_config.FileServerConfig`.

Each field states once the rule for its value, its help text, and whether a reload may change
it. Options, environment variables and the keys of a file follow from its name: ``idle_timeout``
of the proxy is ``--idle-timeout``, ``NATPROXY_PROXY_IDLE_TIMEOUT``, and ``idle-timeout`` in the
table ``[proxy]``. One file may have the tables of both daemons; each reads its own. A value that is
a table or a list of tables is in the file only: there is no option and no variable for it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

from natproxy.access.rules import AccessRule
from natproxy.daemon.config_fields import (
    fields_of,
    key_of,
    setting,
    settings_of,
    variable_of,
)
from natproxy.daemon.limits import LimitSettings, LimitTables
from natproxy.daemon.logfile import KEPT, LEVEL, LEVELS, SIZE
from natproxy.daemon.rules import AccessRules, Name, NetworkTexts, Size, WorkerNumber
from natproxy.settings import (
    DEFAULT,
    ENVIRONMENT,
    Choice,
    Flag,
    Seconds,
    SettingError,
    Source,
    Table,
    Text,
    Texts,
    WholeNumber,
    resolve,
    unknown_keys,
    wrong_value,
)
from natproxy.toml import read_toml

Config = TypeVar("Config", bound="DaemonConfig")

TABLES = ("proxy", "fileserver")
"""The tables that a file may have."""


class Loaded(NamedTuple):
    """How a config was loaded; see `DaemonConfig.load_again`.

    :ivar options: values by their keys.
    :ivar environment: the variables that are settings.
    :ivar file: the path of the file, if there was one.
    :ivar values: what the fields were then, except those that a program has overridden.
    """

    options: Mapping[str, object]
    environment: Mapping[str, str]
    file: str | None
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """The settings that both daemons have.

    All values are checked when a config is made.

    :ivar listen: endpoints to listen on, at least one.
    :ivar first_command_timeout: seconds until a connection that has sent no complete command
        is closed; 0 for no limit.
    :ivar min_rate: bytes a second that a client must read of a reply; 0 for no limit.
    :ivar drain: seconds that commands in flight may take when the daemon stops.
    :ivar max_clients: clients at once; ``None`` for `natproxy.server.admission.CLIENTS`, or as
        many as there are descriptors for.
    :ivar limits: how much clients may take: commands, bytes, and so on.
    :ivar max_delay: seconds for which a command that is over a limit is delayed, before it is
        refused; 0 to refuse it at once.
    :ivar rules: by which commands are allowed or denied, in order.
    :ivar rules_default: ``allow`` or ``deny``, for a command that no rule matches.
    :ivar trusted_proxies: networks from which a PROXY header is accepted; from all, if there are
        none.
    :ivar name: of the daemon, and of its control socket and its journal; ``None`` for
        ``proxy-PORT``, ``files-PORT`` or ``up-PORT``, with the port of the first listener.
    :ivar control: path of the control socket, relative to the working directory; ``none`` for no
        socket, ``None`` for `natproxy.records.places.socket_places`.
    :ivar web: endpoints of the page and the metrics; none by default.
    :ivar web_hosts: names that a request to them may have as its host, besides addresses and
        ``localhost``.
    :ivar workers: processes that serve clients: a number, or ``auto`` for one for each core.
    :ivar reload_drain: seconds that the workers of before a reload may take to finish, if it
        replaces them; 0 for any time.
    :ivar tokens: path of the file with the tokens that ``AUTH`` accepts; ``None`` for no ``AUTH``.
    :ivar auth_plain: whether tokens are accepted from other hosts without TLS.
    :ivar log: path of the log file, relative to the working directory; ``-`` for standard
        output, ``None`` for the log of ``twistd``.
    :ivar access_log: path of the file with a line for each command, relative to the working
        directory; ``-`` for standard output, ``None`` for none.
    :ivar log_level: the least level of the events that the daemon's own log has.
    :ivar log_size: MiB from which the log file is rotated; 0 for never.
    :ivar log_keep: rotated log files that are kept.
    :ivar sources: where each value comes from, by the field's name; a field that is missing has
        its default. Configs are compared without it.
    :ivar directory: what relative paths are relative to: the working directory when the config was
        loaded first, which the daemon may have left. Configs are compared without it.
    :ivar loaded: how it was loaded; ``None`` if a program has made it of values. Likewise.
    :raises SettingError: if a value is wrong.
    """

    daemon: ClassVar[str]
    """The daemon's name as a plugin of ``twistd``."""

    table: ClassVar[str]
    """The daemon's name in files, and in variables."""

    listen: tuple[str, ...] = setting(
        ("tcp:9000",), Texts(), "Endpoint to listen on; may be repeated.", reloadable=False
    )
    first_command_timeout: float = setting(
        30.0,
        Seconds(0),
        "Seconds until a connection that has sent no complete command is closed; 0: no limit.",
    )
    min_rate: int = setting(
        0,
        Size(),
        "Bytes a second that a client must read of a reply, such as 4K, or it is cut off; 0: any.",
    )
    drain: float = setting(
        30.0, Seconds(0), "Seconds that commands in flight may take when the daemon stops."
    )
    max_clients: int | None = setting(
        None,
        WholeNumber(1, unit="clients"),
        "Clients at once (10000, or fewer if there are not descriptors for so many).",
        shown="10000",
    )
    limits: LimitSettings = setting(
        LimitSettings(),
        LimitTables(),
        "Limits for each client, for each identity, and for all together.",
        table_only=True,
    )
    max_delay: float = setting(
        5.0,
        Seconds(0, 3600),
        "Seconds for which a command over a limit is delayed before it is refused; 0: at once.",
    )
    rules: tuple[AccessRule, ...] = setting(
        (),
        AccessRules(),
        "Rules by which commands are allowed or denied, in order.",
        shown="no rules",
        table_only=True,
    )
    rules_default: str = setting(
        "allow",
        Choice("allow", "deny"),
        "What becomes of a command that no rule matches: allow or deny.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        NetworkTexts(),
        "Network from which a PROXY header is accepted (from all); may be repeated.",
    )
    name: str | None = setting(
        None,
        Name(),
        "Name of the daemon, and of its socket and journal (as proxy-9000, by its first port).",
        reloadable=False,
        shown="after its kind and port",
    )
    control: str | None = setting(
        None,
        Text(),
        "Path of the control socket (NAME.sock in the usual place); none: no socket.",
        reloadable=False,
        shown="in the usual place",
    )
    web: tuple[str, ...] = setting(
        (),
        Texts(least=0),
        "Endpoint of the page and the metrics; may be repeated (no access control).",
        reloadable=False,
    )
    web_hosts: tuple[str, ...] = setting(
        (),
        Texts(least=0),
        "Name that a request to --web may have as its host, besides addresses; may be repeated.",
        reloadable=False,
    )
    workers: int | str = setting(
        1,
        WorkerNumber(),
        "Processes that serve clients; auto: one for each core.",
        reloadable=False,
    )
    reload_drain: float = setting(
        0.0,
        Seconds(0),
        "Seconds that replaced workers may take to finish after a reload; 0: any time.",
    )
    tokens: str | None = setting(
        None, Text(), "File with the tokens that AUTH accepts; see natproxy token."
    )
    auth_plain: bool = setting(
        False, Flag(), "Whether tokens are accepted from other hosts without TLS: true or false."
    )
    log: str | None = setting(
        None,
        Text(),
        "File to log to, rotated at --log-size; - is standard output.",
        reloadable=False,
    )
    access_log: str | None = setting(
        None,
        Text(),
        "File with a line for each command, for programs; - is standard output.",
        reloadable=False,
    )
    log_level: str = setting(
        LEVEL,
        Choice(*LEVELS),
        "Least level of what is logged: error, warn, info or debug.",
    )
    log_size: int = setting(
        SIZE, WholeNumber(0, unit="MiB"), "MiB from which the log file is rotated; 0: never."
    )
    log_keep: int = setting(KEPT, WholeNumber(0, unit="files"), "Rotated log files that are kept.")
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)
    directory: str = field(default_factory=os.getcwd, compare=False, repr=False)
    loaded: Loaded | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check every value, by the rule of its field."""
        for one in settings_of(type(self)):
            value = getattr(self, one.field)
            if value is None and one.default is None:
                continue
            try:
                checked = one.rule.check(value)
            except ValueError as error:
                source = self.source(one.field)
                raise SettingError(wrong_value(one, value, source, error)) from None
            object.__setattr__(self, one.field, checked)

    def source(self, name: str) -> Source:
        """Return where the value of a field comes from."""
        return self.sources.get(name, DEFAULT)

    @classmethod
    def program(cls) -> str:
        """Return the program that starts the daemon, for messages."""
        return f"twistd {cls.daemon}"

    def label(self, name: str) -> str:
        """Return what an operator changes to change a field: an option, ``$VARIABLE``, a key."""
        source = self.source(name)
        if source != DEFAULT:
            return source.label
        table_only = any(one.name == name for one in fields_of(type(self), table_only=True))
        return f"{self.table}.{key_of(name)}" if table_only else f"--{key_of(name)}"

    @classmethod
    def load(
        cls: type[Config],
        options: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        file: str | None = None,
        directory: str | None = None,
    ) -> Config:
        """Return the effective settings: option > environment > file > default.

        :param options: values by their keys (``idle-timeout``): text is parsed, other values
            are checked, and a `natproxy.settings.Found` has its own source.
        :param environment: ``os.environ`` by default.
        :param file: TOML file to read; by default, the one that the variable for ``config``
            names, if any.
        :param directory: what relative paths are relative to; the working directory by default.
        :raises SettingError: if a value is wrong, a key is unknown, or the file cannot be read.
        """
        environment = os.environ if environment is None else environment
        options = options or {}
        directory = os.getcwd() if directory is None else directory
        path = environment.get(variable_of(cls, "config")) or None if file is None else file
        table, wrong = (None, []) if path is None else read_table(path, cls.table, directory)
        settings = settings_of(cls)
        try:
            found = resolve(settings, options, environment, table)
        except SettingError as error:
            raise SettingError(*wrong, *error.messages) from None
        if wrong:
            raise SettingError(*wrong)
        values: dict[str, Any] = {name: value for name, (value, _) in found.items()}
        variables = {one.variable for one in settings}
        used = {name: text for name, text in environment.items() if name in variables}
        return cls(
            **values,
            sources={name: source for name, (_, source) in found.items()},
            directory=directory,
            loaded=Loaded(options, used, path, values),
        )

    def override(self: Config, **values: Any) -> Config:
        """Return a config with other values of some fields, whatever the sources have.

        :raises SettingError: if a value is wrong.
        """
        loaded = self.loaded
        if loaded is not None:
            kept = {name: value for name, value in loaded.values.items() if name not in values}
            loaded = loaded._replace(values=kept)
        return dataclasses.replace(self, **values, loaded=loaded)

    def load_again(self: Config) -> Config:
        """Return the settings as their sources are now: the same options and variables, the file.

        A field that a program has overridden, or replaced since it was loaded, stays what it is. A
        config that was not loaded is returned as it is.

        :raises SettingError: as of `load`, and if the file is a pipe, which is read once only.
        """
        loaded = self.loaded
        if loaded is None:
            return self
        if loaded.file is not None:
            path = os.path.join(self.directory, loaded.file)
            # A file that is missing is reported when it is opened.
            if os.path.exists(path) and not os.path.isfile(path):
                raise SettingError(f"{loaded.file}: cannot be read again: not a regular file")
        new = type(self).load(loaded.options, loaded.environment, loaded.file, self.directory)
        changed: dict[str, Any] = {
            one.field: getattr(self, one.field)
            for one in settings_of(type(self))
            if one.field not in loaded.values
            or getattr(self, one.field) != loaded.values[one.field]
        }
        sources = {**new.sources, **{name: self.source(name) for name in changed}}
        return dataclasses.replace(new, **changed, sources=sources)


def without_options(config: Config) -> Config:
    """Return a config whose errors name variables where others name options.

    It is for application files (``.tac``), which have no options: a default is changed by its
    variable.
    """
    kind = type(config)
    variables = {
        one.field: Source(ENVIRONMENT, one.variable)
        for one in settings_of(kind)
        if one.variable and config.source(one.field) == DEFAULT
    }
    return dataclasses.replace(config, sources={**config.sources, **variables})


def read_table(path: str, name: str, directory: str = "") -> tuple[Table | None, list[str]]:
    """Return a daemon's table of a TOML file, and a message for each wrong key beside the tables.

    The table is ``None`` if the file does not have it.

    :param directory: as of `natproxy.toml.read_toml`.
    :raises SettingError: if the file cannot be read.
    """
    content = read_toml(path, directory)
    wrong = list(unknown_keys(Table(path, "", content), TABLES))
    wrong += [
        f"{path}: {table}: must be a table, [{table}]"
        for table in TABLES
        if not isinstance(content.get(table, {}), dict)
    ]
    found = content.get(name)
    return (Table(path, name, found) if isinstance(found, dict) else None), wrong
