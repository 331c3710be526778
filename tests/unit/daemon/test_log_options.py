"""Which log a daemon writes: its own, or the one of ``twistd``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel

from natproxy.daemon import log_options
from natproxy.daemon.log_options import check_access_log, choose_log
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.settings import SettingError


def twistd(**options: Any) -> dict[str, Any]:
    """Return the options of a ``twistd``."""
    default = {"no_save": 0, "nodaemon": 0, "debug": 0, "logfile": None, "logger": None}
    return {**default, "syslog": 0, **options}


def test_foreground_logs_to_standard_output() -> None:
    for parent in (twistd(nodaemon=1), twistd(nodaemon=1, logfile="-"), twistd(debug=1)):
        chosen = choose_log(ProxyConfig(), parent)
        assert chosen.file is None
        assert parent["logger"] == "natproxy.daemon.log_options.observer"
        assert log_options.observer() is chosen.writer


def test_background_logs_to_a_file_that_is_bounded(tmp_path: Path) -> None:
    parent = twistd()
    chosen = choose_log(ProxyConfig(), parent)
    assert chosen.file is not None
    assert chosen.file.path == str(tmp_path / "twistd.log")
    assert parent["logger"] is not None
    chosen.file.close()


@pytest.mark.parametrize(
    "named", [{"logfile": "x.log"}, {"logger": "a.b"}, {"syslog": 1, "nodaemon": 1}]
)
def test_log_that_twistd_names_is_left_to_it(named: dict[str, Any], tmp_path: Path) -> None:
    parent = twistd(**named)
    before = dict(parent)
    chosen = choose_log(ProxyConfig(), parent)
    assert (chosen.writer, chosen.file, parent) == (None, None, before)
    with pytest.raises(SettingError, match="specify one of them"):
        choose_log(ProxyConfig(log="y.log"), parent)
    assert os.listdir(tmp_path) == []


def test_observer_of_the_operator_takes_the_events() -> None:
    assert choose_log(ProxyConfig(), twistd(logger="a.b")).structured
    for parent in (twistd(), twistd(nodaemon=1), twistd(logfile="x.log"), {}, None):
        chosen = choose_log(ProxyConfig(), parent)
        assert not chosen.structured
        if chosen.file is not None:
            chosen.file.close()


def test_commands_are_not_logged_if_the_level_of_twist_is_higher() -> None:
    for level, logged in ((LogLevel.debug, True), (LogLevel.info, True), (LogLevel.warn, False)):
        assert choose_log(ProxyConfig(), {"logLevel": level}).commands is logged


def test_access_log_that_cannot_be_used() -> None:
    for config, parent, words in (
        (ProxyConfig(access_log="-"), twistd(), "no standard output"),
        (ProxyConfig(access_log="a", log="./a"), None, "is the file of the log"),
    ):
        with pytest.raises(SettingError, match=words):
            check_access_log(config, parent)
    for config, parent in (
        (ProxyConfig(), twistd()),
        (ProxyConfig(access_log="-"), twistd(nodaemon=1)),
        (ProxyConfig(access_log="-"), {}),
        (ProxyConfig(access_log="a", log="b"), twistd()),
        (ProxyConfig(access_log="a", log="-"), twistd(nodaemon=1)),
    ):
        check_access_log(config, parent)


def test_log_that_cannot_be_used() -> None:
    for path, parent, words in (
        ("-", twistd(), "no standard output"),
        ("log", {}, "use --log-file"),
        ("missing/log", twistd(), "No such file or directory"),
        (".", None, "Is a directory"),
    ):
        with pytest.raises(SettingError, match=words):
            choose_log(ProxyConfig(log=path), parent)
    assert choose_log(ProxyConfig(), None).writer is None


def test_level_is_that_of_the_setting(tmp_path: Path) -> None:
    chosen = choose_log(ProxyConfig.load({"log-level": "error"}, {}), twistd(nodaemon=1))
    assert chosen.writer is not None
    assert chosen.writer.level is LogLevel.error
    chosen.use(ProxyConfig())
    assert chosen.writer.level is LogLevel.info


@pytest.mark.parametrize(
    "parent",
    [twistd(logfile="x.log"), twistd(syslog=1), {"logLevel": LogLevel.info}, None],
)
def test_level_of_a_log_that_is_not_the_daemons(parent: dict[str, Any] | None) -> None:
    assert choose_log(ProxyConfig.load({}, {}), parent).writer is None
    with pytest.raises(SettingError, match="--log-level warn: has no effect: "):
        choose_log(ProxyConfig.load({"log-level": "warn"}, {}), parent)
