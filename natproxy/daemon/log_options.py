"""Which log a daemon writes: its own (``--log``), or the one of ``twistd``."""

from __future__ import annotations

import os
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
)

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.logfile import LEVEL, MIB, LogWriter, RotatingFile, Stream, format_time
from natproxy.daemon.workers.handover import EXECUTION
from natproxy.settings import SettingError

STANDARD_OUTPUT = 1
SHOWN_BRIEFLY = ("natproxy.proxy", "natproxy.daemon.service", "natproxy.daemon.signals")
"""What ``natproxy up`` logs at the level info; of the rest it shows warnings."""

BACKGROUND = "twistd.log"
"""The log of a daemon in the background by default; the name is that of ``twistd``."""


class LogChoice:
    """Where the log of a daemon goes.

    :ivar writer: the observer that writes it; ``None`` if ``twistd`` writes its own log.
    :ivar file: the file that it is written to, if it is a file.
    :ivar structured: whether an observer of the operator's takes the events (``--logger``).
    :ivar commands: whether the ends of commands are logged: not if the level of ``twist`` is higher
        than theirs.
    :ivar foreign: why the setting ``log-level`` has no effect; empty if it has.
    """

    def __init__(
        self,
        writer: LogWriter | None = None,
        file: RotatingFile | None = None,
        structured: bool = False,
        commands: bool = True,
        foreign: str = "",
    ) -> None:
        self.writer = writer
        self.file = file
        self.structured = structured
        self.commands = commands
        self.foreign = foreign

    def check(self, config: DaemonConfig) -> None:
        """Check that the settings of the log can have an effect.

        :raises SettingError: if another level than the default is set, and the log is not the
            daemon's own.
        """
        if self.foreign and config.log_level != LEVEL:
            label = config.label("log_level")
            raise SettingError(f"{label} {config.log_level}: has no effect: {self.foreign}")

    def use(self, config: DaemonConfig) -> None:
        """Change the level, the size of the file, and the number of rotated ones."""
        if self.writer is not None:
            self.writer.level = LogLevel.levelWithName(config.log_level)
        if self.file is not None:
            self.file.limit(config.log_size * MIB, config.log_keep)

    def delay_commands(self, reactor: Any) -> None:
        """Write lines of commands together while a reactor runs; see `LogWriter.delay`."""
        if self.writer is not None:
            self.writer.delay(reactor)
            reactor.addSystemEventTrigger("after", "shutdown", self.writer.flush)


def open_log(config: DaemonConfig) -> LogChoice:
    """Open the log that a config names; none if it names none.

    :raises SettingError: if the file can't be opened.
    """
    if config.log is not None:
        return _open(config, config.log)
    chosen = LogChoice(foreign="without the setting log, twistd writes its own log")
    chosen.check(config)
    return chosen


def choose_log(config: DaemonConfig, twistd: Any) -> LogChoice:
    """Open the log, and make ``twistd`` use it in the place of its own.

    A log that the options of ``twistd`` name is left to ``twistd``: ``--logfile FILE``,
    ``--syslog`` or ``--logger``.

    :param twistd: the options before the plugin's name, if there are any.
    :raises SettingError: if the file can't be opened, or both name a log.
    """
    if twistd is None:
        return open_log(config)
    path = config.log
    label = f"{config.label('log')} {path}"
    if "no_save" not in twistd:
        # ``twist`` has a log of its own, without rotation.
        if path is not None:
            raise SettingError(f"{label}: an option of twistd's plugin; use --log-file")
        commands = twistd.get("logLevel", LogLevel.info) <= LogLevel.info
        chosen = LogChoice(commands=commands, foreign="twist has an option --log-level of its own")
        chosen.check(config)
        return chosen
    foreground = _in_foreground(twistd)
    named = twistd["logfile"] not in (None, "") and not (foreground and twistd["logfile"] == "-")
    if named or twistd["logger"] or twistd.get("syslog"):
        if path is not None:
            raise SettingError(
                f"{label}: twistd has a log as well (--logfile, --syslog or --logger);"
                " specify one of them"
            )
        chosen = LogChoice(structured=bool(twistd["logger"]), foreign="twistd writes the log")
        chosen.check(config)
        return chosen
    if path is None:
        path = "-" if foreground else BACKGROUND
    if path == "-" and not foreground:
        raise SettingError(f"{label}: a daemon in the background has no standard output")
    chosen = _open(config, path)
    assert chosen.writer is not None
    _observers[:] = [chosen.writer]
    twistd["logger"] = f"{__name__}.{observer.__name__}"
    return chosen


def check_access_log(config: DaemonConfig, twistd: Any = None) -> None:
    """Check that the access log can be where a config has it.

    :param twistd: as of `choose_log`.
    :raises SettingError: if it is standard output and there is none, or if it is the log's file.
    """
    path = config.access_log
    if path is None:
        return
    label = f"{config.label('access_log')} {path}"
    if path == "-":
        # ``twist`` always runs in the foreground.
        if twistd is not None and "no_save" in twistd and not _in_foreground(twistd):
            raise SettingError(f"{label}: a daemon in the background has no standard output")
    elif config.log is not None and os.path.abspath(path) == os.path.abspath(config.log):
        raise SettingError(f"{label}: is the file of the log ({config.label('log')}) as well")


def brief_writer(descriptor: int) -> LogWriter:
    """Return what writes the log of ``natproxy up`` to a stream."""
    return LogWriter(Stream(descriptor), formatted=_brief_line)


def brief_observer(writer: LogWriter) -> FilteringLogObserver:
    """Return an observer that passes the events to a writer which ``natproxy up`` shows."""
    levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    for namespace in SHOWN_BRIEFLY:
        levels.setLogLevelForNamespace(namespace, LogLevel.info)
    return FilteringLogObserver(writer, [levels])


def _brief_line(event: LogEvent) -> str:
    return eventAsText(event, includeSystem=False, formatTime=format_time) + "\n"


def _in_foreground(twistd: Any) -> bool:
    return bool(twistd["nodaemon"] or twistd["debug"]) and not EXECUTION.background


def _open(config: DaemonConfig, path: str) -> LogChoice:
    if path == "-":
        chosen = LogChoice(LogWriter(Stream(STANDARD_OUTPUT)))
    else:
        try:
            file = RotatingFile(path)
        except OSError as error:
            raise SettingError(f"{config.label('log')} {path}: {error.strerror}") from error
        chosen = LogChoice(LogWriter(file), file)
    chosen.use(config)
    return chosen


_observers: list[LogWriter] = []


def observer() -> LogWriter:
    """Return the observer that was chosen last: ``twistd`` imports this by its name."""
    return _observers[0]
