"""natproxy and its file server, through their command lines."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from benchmarks.machine import package_version
from benchmarks.peers.base import Peer, Setting, output
from benchmarks.processes import module

# The others write no log of what goes well, and neither does this.
TWIST = [sys.executable, "-m", "twisted", "--log-level=error"]
TWISTD = [
    sys.executable,
    "-c",
    "from twisted.scripts.twistd import run; run()",
    "--nodaemon",
    "--pidfile=",
]


def twisted_missing() -> str | None:
    """Say if Twisted is not there."""
    return None if importlib.util.find_spec("twisted") else "Twisted is not installed"


class NATProxy(Peer):
    """``natproxy``.

    :param relay: how it is told to relay bodies; `None` leaves that to itself.
    :param observed: whether it has a control socket, metrics and a journal.
    """

    keeps = True

    def __init__(
        self, name: str, title: str, relay: str | None = None, observed: bool = False
    ) -> None:
        super().__init__(name, title)
        self._relay = relay
        self._observed = observed

    def missing(self) -> str | None:
        """See whether this natproxy can be told how to relay."""
        options = output(*TWIST, "natproxy", "--help")
        if "--upstream" not in options:
            return "twistd has no plugin natproxy"
        if self._relay is not None and "--relay" not in options:
            return "this natproxy has no --relay"
        return None

    def version(self) -> str:
        """Give natproxy's version."""
        return package_version("natproxy")

    def command(self, setting: Setting) -> list[str]:
        """Run it in front of the origin."""
        return [
            *TWIST,
            "natproxy",
            f"--listen=tcp:{setting.port}:interface=127.0.0.1:backlog=4096",
            f"--upstream=tcp:127.0.0.1:{setting.origin_port}",
            f"--max-clients={setting.clients}",
            # All of them come from one host, and some say nothing.
            "--max-clients-per-host=0",
            "--first-command-timeout=0",
            *([f"--relay={self._relay}"] if self._relay else []),
            f"--control={self.control(setting) or 'none'}",
            f"--journal={setting.directory / 'journal' if self._observed else 'none'}",
        ]

    def control(self, setting: Setting) -> Path | None:
        """Return its control socket, if it is observed."""
        return setting.directory / "control.sock" if self._observed else None


class LoggingNATProxy(NATProxy):
    """``natproxy`` that writes a line for each command, and nothing else."""

    def missing(self) -> str | None:
        """See whether this natproxy has an access log."""
        if "--access-log" not in output(*TWIST, "natproxy", "--help"):
            return super().missing() or "this natproxy has no --access-log"
        return super().missing()

    def command(self, setting: Setting) -> list[str]:
        """Run it in front of the origin."""
        return [*super().command(setting), f"--access-log={setting.directory / 'access.log'}"]


class WorkersNATProxy(NATProxy):
    """``natproxy`` with two workers, which share its port."""

    def missing(self) -> str | None:
        """See whether this natproxy has workers."""
        if "--workers" not in output(*TWIST, "natproxy", "--help"):
            return super().missing() or "this natproxy has no --workers"
        return super().missing()

    def command(self, setting: Setting) -> list[str]:
        """Run it in front of the origin."""
        control = setting.directory / "control.sock"
        return [*super().command(setting), f"--control={control}", "--workers=2"]

    def control(self, setting: Setting) -> Path:
        """Return the control socket of a worker: the port is open before it serves."""
        return setting.directory / "control.w1.sock"


_RULES = """
[[proxy.rules]]
action = "deny"
clients = ["10.{number}.0.0/16"]

[[proxy.rules]]
action = "deny"
names = ["secret-{number}/**"]
"""

_LIMITS = """
[proxy.limits.client]
commands = 100000
commands-per-second = 1000000

[proxy.limits.total]
commands = 100000
commands-per-second = 1000000
bytes-per-second = "100G"
"""


class LimitedNATProxy(NATProxy):
    """``natproxy`` with 20 rules of which none matches, and limits that no client reaches."""

    def command(self, setting: Setting) -> list[str]:
        """Write the settings, and run it in front of the origin."""
        file = setting.directory / "limits.toml"
        file.write_text("".join(_RULES.format(number=n) for n in range(10)) + _LIMITS)
        return [*super().command(setting), f"--config={file}"]


class DefaultNATProxy(NATProxy):
    """``natproxy`` as it runs if it is told nothing: log, control socket and journal.

    Only their places differ, so that nothing is left on the machine.
    """

    def command(self, setting: Setting) -> list[str]:
        """Run it in front of the origin as operators do: by ``twistd``, with natproxy's own log."""
        options = [
            option
            for option in super().command(setting)[len(TWIST) :]
            if not option.startswith("--journal=")
        ]
        places = (f"--{name}={setting.directory / name}" for name in ("journal", "log"))
        return [*TWISTD, *options, *places]

    def control(self, setting: Setting) -> Path:
        """Return its control socket."""
        return setting.directory / "control.sock"


class FullTable(NATProxy):
    """``natproxy`` with a table that is full from the beginning, and a clock in its reactor."""

    def command(self, setting: Setting) -> list[str]:
        """Run it; nothing is sent to its upstream."""
        return module("daemons.full_table", setting.port, setting.directory / "control.sock")

    def control(self, setting: Setting) -> Path:
        """Return its control socket."""
        return setting.directory / "control.sock"


class FileServer(Peer):
    """``fileserver``."""

    keeps = True
    serves = True

    def missing(self) -> str | None:
        """See whether the plugin is there."""
        if "--files" not in output(*TWIST, "fileserver", "--help"):
            return "twistd has no plugin fileserver"
        return None

    def version(self) -> str:
        """Give natproxy's version."""
        return package_version("natproxy")

    def command(self, setting: Setting) -> list[str]:
        """Serve the files."""
        return [
            *TWIST,
            "fileserver",
            f"--listen=tcp:{setting.port}:interface=127.0.0.1:backlog=4096",
            f"--files={setting.files}",
            f"--max-clients={setting.clients}",
            "--control=none",
            "--first-command-timeout=0",
        ]
