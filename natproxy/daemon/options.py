"""The command line of a daemon under ``twistd``: its options are the fields of its config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.python import usage

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import fields_of, key_of, variable_of
from natproxy.daemon.log_options import LogChoice, check_access_log, choose_log
from natproxy.daemon.service import startup_errors


class DaemonOptions(usage.Options):
    """The options of a daemon; a subclass has those of its `DaemonConfig`.

    Options hold text only. It is converted and checked with the values of the other sources,
    by `DaemonConfig.load`.

    :param reactor: the daemon's; by default, the global one.
    :ivar config: the effective settings, once the command line has been parsed.
    :ivar log: where the daemon logs.
    """

    config_class: ClassVar[type[DaemonConfig]]

    def __init__(self, reactor: Any = None) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.reactor = reactor
        self.log = LogChoice()
        self._specified: dict[str, object] = {}

    def opt_listen(self, description: str) -> None:
        """Endpoint to listen on; may be repeated. See below for the default."""
        self._add("listen", description)

    def opt_web(self, description: str) -> None:
        """Endpoint of the page and the metrics; may be repeated. There is none by default."""
        self._add("web", description)

    def opt_web_hosts(self, name: str) -> None:
        """Name that a request to --web may have as its host, besides addresses; may be repeated."""
        self._add("web-hosts", name)

    def opt_trusted_proxies(self, network: str) -> None:
        """Network from which a PROXY header is accepted (from all); may be repeated."""
        self._add("trusted-proxies", network)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line.

        :raises StartupError: if it is wrong; one line names the option and the reason.
        """
        with startup_errors(self.config_class.program()):
            super().parseOptions(options)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse arguments that are not options.

        :raises UsageError: if there is one.
        """
        if arguments:
            raise usage.UsageError(f"{arguments[0]}: not an option; settings begin with --")

    def postOptions(self) -> None:
        """Load the config, and open the log."""
        for one in fields_of(self.config_class, table_only=False):
            key = key_of(one.name)
            if self.get(key) is not None:
                self._specified[key] = self[key]
        self.config = self.config_class.load(self._specified, file=self["config"])
        check_access_log(self.config, self.parent)
        self.log = choose_log(self.config, self.parent)

    def _add(self, option: str, value: str) -> None:
        values = self._specified.setdefault(option, [])
        assert isinstance(values, list)
        values.append(value)

    def set_once(self, option: str, value: str) -> None:
        """Set an option that can be specified only once.

        :raises UsageError: if it is repeated.
        """
        if option in self._specified:
            raise usage.UsageError(f"--{option} {value}: --{option} can be specified only once")
        self._specified[option] = value


def parameters_of(config: type[DaemonConfig], *others: str) -> list[list[Any]]:
    """Return the options of a config, in the form of ``usage.Options.optParameters``.

    A default is part of the help text, so that an option that is not specified has no value.

    :param others: fields whose options have a method of their own.
    """
    file = f"TOML file with the settings (or {variable_of(config, 'config')})."
    parameters: list[list[Any]] = [["config", None, None, file]]
    for one in fields_of(config, table_only=False):
        if one.name not in ("listen", "trusted_proxies", "web", "web_hosts", *others):
            rule = one.metadata["rule"]
            default = "" if one.default is None else f" [default: {rule.show(one.default)}]"
            parameters.append([key_of(one.name), None, None, one.metadata["summary"] + default])
    return parameters
