"""Which log a daemon writes: ``--log`` and what ``twistd`` was told."""

from __future__ import annotations

from typing import Any

from twisted.python import usage

from natproxy.daemon.logfile import MIB, LogWriter, RotatingFile, Stream

STANDARD_OUTPUT = 1
BACKGROUND = "twistd.log"
"""The log of a daemon in the background that was told nothing, as ``twistd`` has it."""


class LogChoice:
    """Where the log of a daemon goes.

    :ivar writer: the observer that writes it; `None` if ``twistd`` writes it by itself.
    :ivar file: the file that it is written to, if it is a file.
    """

    def __init__(self, path: str | None, size: int, kept: int) -> None:
        """Open the log.

        :param path: of the file; ``-`` for standard output, `None` for no log of our own.
        :param size: MiB from which the file is rotated; 0 for never.
        :param kept: rotated files that are kept.
        :raises UsageError: if the file can't be opened.
        """
        self.writer: LogWriter | None = None
        self.file: RotatingFile | None = None
        if path is None:
            return
        if path == "-":
            self.writer = LogWriter(Stream(STANDARD_OUTPUT))
            return
        try:
            self.file = RotatingFile(path, size * MIB, kept)
        except OSError as error:
            raise usage.UsageError(f"--log {path}: {error.strerror}") from error
        self.writer = LogWriter(self.file)


def choose_log(path: str | None, size: int, kept: int, parent: Any) -> LogChoice:
    """Open the log, and have ``twistd`` use it in the place of its own.

    ``twistd`` goes on writing what it was told to write: by ``--logfile FILE``,
    ``--syslog`` or ``--logger``.

    :param path: what ``--log`` names.
    :param parent: the options before the plugin's name, if there are any.
    :raises UsageError: if the file can't be opened, or both were told where to log.
    """
    if parent is None:
        return LogChoice(path, size, kept)
    if "no_save" not in parent:
        # ``twist`` has a log of its own, without rotation.
        if path is not None:
            raise usage.UsageError(f"--log {path}: an option of twistd's plugin; use --log-file")
        return LogChoice(None, size, kept)
    foreground = parent["nodaemon"] or parent["debug"]
    told = parent["logfile"] not in (None, "") and not (foreground and parent["logfile"] == "-")
    if told or parent["logger"] or parent.get("syslog"):
        if path is not None:
            raise usage.UsageError(
                f"--log {path}: twistd was told where to log as well"
                " (--logfile, --syslog or --logger); give one of them"
            )
        return LogChoice(None, size, kept)
    if path is None:
        path = "-" if foreground else BACKGROUND
    if path == "-" and not foreground:
        raise usage.UsageError("--log -: a daemon in the background has no standard output")
    chosen = LogChoice(path, size, kept)
    assert chosen.writer is not None
    _observers[:] = [chosen.writer]
    parent["logger"] = f"{__name__}.{observer.__name__}"
    return chosen


_observers: list[LogWriter] = []


def observer() -> LogWriter:
    """Return the observer that was chosen last: ``twistd`` imports this by its name."""
    return _observers[0]
