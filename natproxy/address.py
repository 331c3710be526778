"""Host and port of one end of a connection."""

from __future__ import annotations

from typing import NamedTuple

FIRST_STAND_IN_PORT = 65_536
"""The first number that stands for a port where there is none."""


class Address(NamedTuple):
    """One end of a connection.

    :ivar host: a numeric address, or ``unix`` with the path, if there is one.
    :ivar port: a TCP port, or a stand-in from 65,536 up where there is none: it is
        given to one connection in the daemon's life, and can't be taken for a port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        if self.port >= FIRST_STAND_IN_PORT:
            return f"{self.host}#{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
