"""Reports about the settings of a daemon: what is in effect and why, and what is wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import settings_of
from natproxy.daemon.endpoints import listening_endpoints, upstream_targets
from natproxy.daemon.fileserver import open_directory
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.log_options import check_access_log
from natproxy.daemon.parts import tokens_of
from natproxy.daemon.places import explicit_control
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.settings import Found, SettingError
from natproxy.toml import format_settings

CONFIGS: Mapping[str, type[DaemonConfig]] = {
    config.table: config for config in (ProxyConfig, FileServerConfig)
}
"""The configs by the names of the daemons: ``proxy``, ``fileserver``."""


def show_config(
    daemon: str, environment: Mapping[str, str] | None = None, file: str | None = None
) -> str:
    """Return the effective settings as a TOML table, each with its source in a comment.

    :param daemon: a key of `CONFIGS`.
    :param environment: ``os.environ`` by default.
    :param file: TOML file; by default, the one that the environment names.
    :raises SettingError: if one is wrong; it has a message for each.
    """
    config = CONFIGS[daemon].load(environment=environment, file=file)
    settings = settings_of(type(config))
    found = {
        one.field: Found(getattr(config, one.field), config.source_of(one.field))
        for one in settings
    }
    return format_settings(settings, found, daemon)


def check_config(
    reactor: Any,
    daemon: str,
    environment: Mapping[str, str] | None = None,
    file: str | None = None,
) -> list[str]:
    """Return a line for each setting that is wrong, as `show_config` finds it.

    Endpoints are parsed, but not opened; those of ``systemd:`` are not checked, since their
    sockets exist in the unit alone. A directory that is named must exist, and that of a log.

    :param reactor: for the parsers of endpoints; nothing runs in it.
    """
    try:
        config = CONFIGS[daemon].load(environment=environment, file=file)
    except SettingError as error:
        return list(error.messages)
    checks: list[Callable[[], object]] = [
        lambda: _check_log(config, "log"),
        lambda: _check_log(config, "access_log"),
        lambda: check_access_log(config),
    ]
    for setting in ("listen", "web"):
        for description in getattr(config, setting):
            if not description.removeprefix("haproxy:").startswith("systemd:"):
                changed: dict[str, Any] = {setting: (description,)}
                one = replace(config, **changed)
                checks.append(partial(listening_endpoints, reactor, one, setting))
    checks.append(partial(explicit_control, config))
    checks.append(lambda: tokens_of(config))
    if isinstance(config, ProxyConfig):
        proxy = config
        checks.append(lambda: upstream_targets(reactor, proxy))
        checks.append(lambda: listening_endpoints(reactor, proxy, "ident"))
    elif isinstance(config, FileServerConfig) and config.files is not None:
        server = config
        checks.append(lambda: open_directory(server))
    return [message for check in checks for message in _errors_of(check)]


def _check_log(config: DaemonConfig, setting: str) -> None:
    """Check that a log file may exist, without creating it.

    :param setting: the field that names it.
    """
    path = getattr(config, setting)
    if path is None or path == "-":
        return
    reason = None
    if os.path.isdir(path):
        reason = os.strerror(errno.EISDIR)
    elif not os.path.isdir(os.path.dirname(path) or "."):
        reason = os.strerror(errno.ENOENT)
    if reason:
        raise SettingError(f"{config.label(setting)} {path}: {reason}")


def _errors_of(check: Callable[[], object]) -> tuple[str, ...]:
    try:
        check()
    except SettingError as error:
        return error.messages
    return ()
