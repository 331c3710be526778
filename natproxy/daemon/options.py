"""Options that both daemons have, and how a wrong one is told."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python import usage

from natproxy.daemon.descriptors import Room
from natproxy.daemon.listening import endpoint_from
from natproxy.daemon.log_options import LogChoice, choose_log
from natproxy.daemon.logfile import KEPT, SIZE
from natproxy.daemon.service import StartupError
from natproxy.relay import Method
from natproxy.server.admission import CLIENTS, Admission

_Endpoint = TypeVar("_Endpoint")


def seconds(option: str, least: float = 0.001) -> Callable[[str], float]:
    """Return a reader of an option's time in seconds, which raises `UsageError`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            raise usage.UsageError(f"--{option} {text}: must be at least {least:g} seconds")
        return value

    return read


def whole_number(option: str, least: int = 1) -> Callable[[str], int]:
    """Return a reader of an option's whole number, which raises `UsageError`.

    :param least: the smallest number that is accepted.
    """

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
            raise usage.UsageError(f"--{option} {text}: must be a whole number from {least} up")
        return int(text)

    return read


def relay_method(words: Mapping[str, Method]) -> Callable[[str], Method]:
    """Return a reader of ``--relay``, which raises `UsageError`."""

    def read(text: str) -> Method:
        if text not in words:
            raise usage.UsageError(f"--relay {text}: must be one of {', '.join(words)}")
        return words[text]

    return read


class DaemonOptions(usage.Options):
    """The options of both daemons; endpoints are checked as they are read.

    :param reactor: the endpoints are for.
    :param program: what the user has typed, to begin a complaint with.
    :ivar log: where the daemon logs.
    :ivar listen_option: what chooses where to listen; an application file has a variable.
    :ivar listeners: endpoints to listen on, each with the words that described it.
    """

    daemon: ClassVar[str]
    default_listen: ClassVar[str]

    _log = Logger()

    common: ClassVar[list[list[Any]]] = [
        [
            "log",
            None,
            None,
            "File to log to, rotated at --log-size; - is standard output.",
        ],
        [
            "log-size",
            None,
            SIZE,
            "MiB from which the log file is rotated; 0: never.",
            whole_number("log-size", 0),
        ],
        [
            "log-keep",
            None,
            KEPT,
            "Rotated log files that are kept.",
            whole_number("log-keep", 0),
        ],
        [
            "first-command-timeout",
            None,
            30.0,
            "Seconds until a connection that has sent no complete command is closed; 0: no limit.",
            seconds("first-command-timeout", 0),
        ],
        [
            "max-clients",
            None,
            None,
            f"Clients at once ({CLIENTS}, or fewer if there are not descriptors for so many).",
            whole_number("max-clients"),
        ],
        [
            "drain",
            None,
            30.0,
            "Seconds that commands in flight may take when the daemon stops.",
            seconds("drain", 0),
        ],
    ]

    def __init__(self, reactor: Any = None, program: str = "") -> None:
        super().__init__()
        self.program = program or f"twistd {self.daemon}"
        if reactor is None:
            from twisted.internet import reactor
        self.reactor = reactor
        self.listeners: list[tuple[str, IStreamServerEndpoint]] = []
        self.listen_option = "--listen"
        self._given: set[str] = set()
        self.log = LogChoice(None, SIZE, KEPT)

    def opt_listen(self, description: str) -> None:
        """Endpoint to listen on; may be given many times. See below for the default."""
        endpoint = self.endpoint("--listen", description, endpoint_from, _listening)
        self.listeners.append((description, endpoint))

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line.

        :raises StartupError: if it is wrong; one line says what and where.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as wrong:
            raise StartupError(f"{self.program}: {wrong}") from None

    def postOptions(self) -> None:
        """Listen at the default address if no other was given, and open the log."""
        if not self.listeners:
            self.opt_listen(self.default_listen)
        self.log = choose_log(self["log"], self["log-size"], self["log-keep"], self.parent)

    def once(self, option: str, value: str) -> None:
        """Set an option that can be given only once.

        :raises UsageError: if it is given again.
        """
        if option in self._given:
            raise usage.UsageError(f"--{option} {value}: --{option} can be given only once")
        self._given.add(option)
        self[option] = value

    def admission(self, room: Room, per_host: Callable[[int], int]) -> Admission:
        """Return the limits of the number of clients.

        :param room: how many clients there are descriptors for.
        :param per_host: returns the default for one host, by the number in all.
        """
        wanted: int | None = self["max-clients"]
        clients = min(CLIENTS if wanted is None else wanted, room.clients)
        if wanted is not None and clients < wanted:
            self._log.warn(
                "{daemon}: --max-clients {wanted}: there are descriptors for {clients} clients"
                " (see ulimit -n, or LimitNOFILE in a unit)",
                daemon=self.daemon,
                wanted=wanted,
                clients=clients,
            )
        given: int | None = self["max-clients-per-host"]
        return Admission(clients, per_host(clients) if given is None else given)

    def endpoint(
        self,
        option: str,
        description: str,
        read: Callable[[Any, str], _Endpoint],
        meant: Callable[[str], str | None],
    ) -> _Endpoint:
        """Read an endpoint string.

        :param meant: returns the endpoint that a malformed one probably stands for.
        :raises UsageError: naming the option, if it is malformed.
        """
        try:
            return read(self.reactor, description)
        except Exception as wrong:
            # Twisted raises whatever its parsers and certificate loaders do.
            likely = meant(description)
            if likely is not None:
                raise usage.UsageError(
                    f"{option} {description}: not an endpoint; write {likely}"
                ) from wrong
            raise usage.UsageError(f"{option} {description}: {_words(wrong)}") from wrong

    def upstream(self, option: str, description: str) -> IStreamClientEndpoint:
        """Read a client endpoint string.

        :raises UsageError: if it is malformed.
        """
        port = re.fullmatch(r"tcp:.*:(?:port=)?(\d+)", description)
        if port and not 0 < int(port[1]) < 65536:
            raise usage.UsageError(f"{option} {description}: there is no port {port[1]}")
        endpoint: IStreamClientEndpoint = self.endpoint(
            option, description, clientFromString, _connecting
        )
        return endpoint


_PLACE = re.compile(
    r"(?:tcp:|[a-z]+://)?"
    r"(?:(?P<host>[a-z0-9_.-]*[a-z0-9_-]\.?)|\[(?P<ipv6>[0-9a-f:.]+(?:%[\w.-]+)?)\])?"
    r":?(?P<port>(?<![a-z0-9])[0-9]{1,5})/?",
    re.ASCII | re.IGNORECASE,
)
"""``9020``, ``:9020``, ``host:9020``, ``[::1]:9020``, a URL of these; not an endpoint."""


def _place(text: str) -> tuple[str, str, str] | None:
    """Return host, IPv6 address and port of what is no endpoint, but nearly one."""
    found = _PLACE.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        return None
    return found["host"] or "", found["ipv6"] or "", found["port"]


def _listening(text: str) -> str | None:
    place = _place(text)
    if place is None:
        return None
    host, ipv6, port = place
    if ipv6:
        return f"tcp6:{port}:interface=" + ipv6.replace(":", "\\:")
    if host in ("", "*", "0.0.0.0"):  # noqa: S104
        return f"tcp:{port}"
    if host != "localhost" and "." not in host:
        # The misspelt type of an endpoint, as in "tpc:9", and not a host.
        return None
    return f"tcp:{port}:interface=" + ("127.0.0.1" if host == "localhost" else host)


def _connecting(text: str) -> str | None:
    place = _place(text)
    if place is None:
        return None
    host, ipv6, port = place
    return f"tcp:{ipv6.replace(':', chr(92) + ':') or host or '127.0.0.1'}:{port}"


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (ImportError, NameError)):
        return "TLS is not installed; it is the extra natproxy[tls]"
    if isinstance(error, LookupError):
        return "no such socket has been handed over"
    if isinstance(error, TypeError):
        return "malformed endpoint"
    return f"malformed endpoint ({error})"
