"""Clients that count what they get and look at none of it."""

from __future__ import annotations

import ftplib
import socket
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError
from benchmarks.load.dialects import DIALECTS
from benchmarks.processes import HOST

PATIENCE = 20.0
"""Seconds that a connection may take to be opened."""
_RESET = struct.pack("ii", 1, 0)
_DISCARDED = bytearray(1024 * 1024)
_BIND_ADDRESS_NO_PORT = 24


@dataclass(frozen=True)
class Target:
    """What clients talk to.

    :ivar port: of the peer.
    :ivar dialect: that it speaks.
    :ivar keeps: whether a client keeps its connection from one command to the next.
    """

    port: int
    dialect: str
    keeps: bool


def connect(port: int, source: str | None = None) -> socket.socket:
    """Open a connection.

    :param source: address to come from, when there are more clients than ports.
    """
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    if source is not None:
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.bind((source, 0))
    connection.connect((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection: socket.socket) -> None:
    """Close a connection whose reply is complete, leaving no port in TIME_WAIT."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


class Client(ABC):
    """Downloads one file again and again.

    :ivar connection: that the body comes on; another one after `start`, perhaps.
    :ivar received: bytes of bodies.
    """

    def __init__(self) -> None:
        self.connection: socket.socket | None = None
        self.received = 0

    def prepare(self) -> None:
        """Do once what need not be measured."""
        return

    @abstractmethod
    def start(self) -> socket.socket:
        """Ask for the file; give the connection to watch."""

    @abstractmethod
    def readable(self) -> bool:
        """Take what has come, and say whether the reply is complete.

        :raises BenchmarkError: if it is not what was to come.
        """

    def finish(self) -> None:
        """The reply is complete."""
        return


class TCPClient(Client):
    """Downloads over a connection that it keeps, or over one for each time.

    :param size: of the file, in bytes.
    """

    def __init__(self, target: Target, name: str, size: int) -> None:
        super().__init__()
        self._target = target
        self._dialect = DIALECTS[target.dialect]
        self._request = self._dialect.request(name)
        self._size = size
        self._header: bytes | None = b""
        self._left = 0

    def prepare(self) -> None:
        """Connect, if the connection will be kept."""
        if self._target.keeps:
            self._connect()

    def _connect(self) -> socket.socket:
        self.connection = connect(self._target.port)
        self.connection.setblocking(False)
        return self.connection

    def start(self) -> socket.socket:
        """Ask for the file, on a new connection if there is none."""
        connection = self.connection or self._connect()
        self._header = b""
        connection.send(self._request)
        return connection

    def readable(self) -> bool:
        """Read the header, and have the kernel throw the body away."""
        assert self.connection is not None
        if self._header is None:
            count = self.connection.recv_into(
                _DISCARDED, min(len(_DISCARDED), self._left), socket.MSG_TRUNC
            )
        else:
            data = self.connection.recv(8192)
            header, end, body = (self._header + data).partition(self._dialect.end)
            if data and not end:
                self._header = header
                return False
            count = len(body)
            if data:
                self._header = None
                self._left = self._dialect.body_size(header)
                if self._left != self._size:
                    raise BenchmarkError(f"{self._left} bytes announced, not {self._size}")
                if not count:
                    return not self._left
        if not count or count > self._left:
            raise BenchmarkError(f"connection closed, or a surplus, {self._left} bytes missing")
        self._left -= count
        self.received += count
        return not self._left

    def finish(self) -> None:
        """Close the connection, unless it is kept."""
        if not self._target.keeps and self.connection is not None:
            reset(self.connection)
            self.connection = None


class FTPClient(Client):
    """Downloads over FTP: one data connection for each file.

    `start` and `finish` wait for the server's answers, and so hold up the clients of the
    same process: for bodies of megabytes that is nothing.
    """

    def __init__(self, target: Target, name: str, size: int) -> None:
        super().__init__()
        self._port = target.port
        self._name = name
        self._size = size
        self._got = 0
        self._control = ftplib.FTP()

    def prepare(self) -> None:
        """Log in."""
        self._control.connect(HOST, self._port, PATIENCE)
        self._control.login()
        self._control.voidcmd("TYPE I")

    def start(self) -> socket.socket:
        """Ask for the file."""
        self._got = 0
        self.connection = self._control.transfercmd(f"RETR {self._name}")
        self.connection.setblocking(False)
        return self.connection

    def readable(self) -> bool:
        """Have the kernel throw the body away, up to the connection's end."""
        assert self.connection is not None
        count = self.connection.recv_into(_DISCARDED, len(_DISCARDED), socket.MSG_TRUNC)
        self._got += count
        self.received += count
        if not count and self._got != self._size:
            raise BenchmarkError(f"{self._got} bytes came, not {self._size}")
        return not count

    def finish(self) -> None:
        """Take the server's word that this was all."""
        assert self.connection is not None
        self.connection.close()
        self.connection = None
        self._control.voidresp()


def new_client(target: Target, name: str, size: int) -> Client:
    """Make a client that speaks what the target does."""
    kind = FTPClient if target.dialect == "ftp" else TCPClient
    return kind(target, name, size)
