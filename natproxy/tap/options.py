"""Options that both daemons have, and how a wrong one is told."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.python import usage

from natproxy.relay import Way
from natproxy.service import StartupError

_Endpoint = TypeVar("_Endpoint")


def seconds(option: str, least: float = 0.001) -> Callable[[str], float]:
    """Give a reader of an option's time in seconds, which raises `UsageError`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            raise usage.UsageError(f"--{option} {text}: seconds, {least:g} or more, are needed")
        return value

    return read


def whole_number(option: str) -> Callable[[str], int]:
    """Give a reader of an option's whole number above 0, which raises `UsageError`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text)):
            raise usage.UsageError(f"--{option} {text}: a whole number above 0 is needed")
        return int(text)

    return read


def way(words: Mapping[str, Way]) -> Callable[[str], Way]:
    """Give a reader of ``--relay``, which raises `UsageError`."""

    def read(text: str) -> Way:
        if text not in words:
            raise usage.UsageError(f"--relay {text}: one of {', '.join(words)} is needed")
        return words[text]

    return read


class DaemonOptions(usage.Options):
    """``--listen``, ``--timeout`` and ``--drain``; endpoints are checked as they are read.

    :param reactor: the endpoints are for.
    :param program: what the user has typed, to begin a complaint with.
    :ivar listeners: endpoints to listen on, each with the words that described it.
    """

    daemon: ClassVar[str]
    default_listen: ClassVar[str]

    def __init__(self, reactor: Any = None, program: str = "") -> None:
        super().__init__()
        self.program = program or f"twistd {self.daemon}"
        if reactor is None:
            from twisted.internet import reactor
        self.reactor = reactor
        self.listeners: list[tuple[str, IStreamServerEndpoint]] = []

    def opt_listen(self, description: str) -> None:
        """Endpoint to listen on, given once or more often; see above for the default."""
        endpoint = self.endpoint("--listen", description, serverFromString)
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
        """Listen where everybody expects, if nothing else was said."""
        if not self.listeners:
            self.opt_listen(self.default_listen)

    def endpoint(
        self, option: str, description: str, read: Callable[[Any, str], _Endpoint]
    ) -> _Endpoint:
        """Read an endpoint string.

        :raises UsageError: naming the option, if it is malformed.
        """
        try:
            return read(self.reactor, description)
        except Exception as wrong:
            # Twisted raises whatever its parsers and certificate loaders do.
            raise usage.UsageError(f"{option} {description}: {_words(wrong)}") from wrong

    def upstream(self, option: str, description: str) -> IStreamClientEndpoint:
        """Read a client endpoint string.

        :raises UsageError: if it is malformed.
        """
        port = re.fullmatch(r"tcp:.*:(?:port=)?(\d+)", description)
        if port and not 0 < int(port[1]) < 65536:
            raise usage.UsageError(f"{option} {description}: there is no port {port[1]}")
        endpoint: IStreamClientEndpoint = self.endpoint(option, description, clientFromString)
        return endpoint


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
