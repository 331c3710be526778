"""What a worker is started with: one record, which it reads from an inherited descriptor.

It is JSON, and settings are written as a file has them: a worker of a newer version can read the
record of the master that it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import settings_of
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.workers.handover import read_json, write_json
from natproxy.daemon.workers.sockets import InheritedEndpoint
from natproxy.settings import Setting, Source

CONFIGS: Mapping[str, type[DaemonConfig]] = {
    one.table: one for one in (ProxyConfig, FileServerConfig)
}
"""The configs by their tables."""


class LogRecord(NamedTuple):
    """How a worker logs; see `natproxy.daemon.log_options.LogChoice`.

    :ivar own: whether the daemon writes the log, and not ``twistd``.
    :ivar structured: whether an observer of the operator's takes the events.
    :ivar commands: whether the ends of commands are logged.
    :ivar foreign: why the setting ``log-level`` has no effect.
    :ivar brief: whether the log is that of ``natproxy up``.
    """

    own: bool = True
    structured: bool = False
    commands: bool = True
    foreign: str = ""
    brief: bool = False


class WorkerRecord(NamedTuple):
    """What a worker is started with.

    :ivar kind: ``proxy``, ``fileserver`` or ``up``: of the daemon, as for its default name.
    :ivar number: of the worker, from 0.
    :ivar workers: how many there are.
    :ivar generation: counted up by each reload that replaces the workers.
    :ivar boot: random text; this process.
    :ivar config: the settings: name, path of the control socket and so on are those of the worker.
    :ivar endpoints: where to listen, in the order of the setting.
    :ivar channel: descriptor of the channel to the master.
    :ivar log: how it logs; its log is written to standard error.
    :ivar reactor: the module of the reactor; empty for the default.
    :ivar modes: of the upstreams that an administrator has set one for, by their names; see
        `natproxy.records.upstreams.MODES`.
    """

    kind: str
    number: int
    workers: int
    generation: int
    boot: str
    config: DaemonConfig
    endpoints: tuple[InheritedEndpoint, ...]
    channel: int
    log: LogRecord = LogRecord()
    reactor: str = ""
    modes: Mapping[str, str] = MappingProxyType({})

    def descriptors(self) -> list[int]:
        """Return the descriptors that the process inherits, besides the standard ones."""
        sockets = [number for one in self.endpoints for number in one.descriptors]
        return [self.channel, *sockets]


def write_record(record: WorkerRecord) -> int:
    """Return a descriptor from which a record can be read; the caller closes it."""
    values = record._asdict()
    values["config"] = config_members(record.config)
    values["modes"] = dict(record.modes)
    return write_json(values)


def read_record(descriptor: int) -> WorkerRecord:
    """Return the record of a descriptor, and close it.

    :raises ValueError: if there is none.
    :raises SettingError: if a setting of it is wrong.
    """
    values = read_json(descriptor)
    values["config"] = config_of(values["config"])
    values["endpoints"] = tuple(
        InheritedEndpoint(description, family, tuple(descriptors))
        for description, family, descriptors in values["endpoints"]
    )
    values["log"] = LogRecord(*values["log"])
    known = {name: value for name, value in values.items() if name in WorkerRecord._fields}
    return WorkerRecord(**known)


def config_members(config: DaemonConfig) -> dict[str, Any]:
    """Return a config as JSON; `config_of` is the opposite."""
    values = {
        one.field: _plain(one, getattr(config, one.field)) for one in settings_of(type(config))
    }
    return {
        "table": config.table,
        "values": values,
        "sources": {name: list(source) for name, source in config.sources.items()},
        "directory": config.directory,
    }


def config_of(members: Mapping[str, Any]) -> DaemonConfig:
    """Return the config of `config_members`; it has not been loaded, so it is never loaded again.

    A setting that this version does not have is left out.

    :raises SettingError: if a value is wrong.
    """
    kind = CONFIGS[members["table"]]
    fields = {one.field for one in settings_of(kind)}
    values = {name: value for name, value in members["values"].items() if name in fields}
    return kind(
        **values,
        sources={name: Source(*source) for name, source in members["sources"].items()},
        directory=members["directory"],
    )


def _plain(one: Setting, value: Any) -> object:
    return None if value is None else one.rule.plain(value)
