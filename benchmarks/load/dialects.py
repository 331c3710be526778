"""What a client says to get a file, and how it learns how long the body is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from benchmarks.errors import BenchmarkError


class Dialect(ABC):
    """How a file is asked for on a TCP connection.

    :cvar end: what ends a reply's header.
    """

    end: bytes

    @abstractmethod
    def request(self, name: str) -> bytes:
        """Ask for a file."""

    @abstractmethod
    def body_size(self, header: bytes) -> int:
        """Give the length of the body that follows a header, in bytes.

        :raises BenchmarkError: if the header says that there is none.
        """


class Line(Dialect):
    """natproxy's own: ``DOWNLOAD name``."""

    end = b"\n"

    def request(self, name: str) -> bytes:
        """Ask for a file."""
        return b"DOWNLOAD " + name.encode() + b"\n"

    def body_size(self, header: bytes) -> int:
        """Read ``OK size``."""
        if not header.startswith(b"OK "):
            raise BenchmarkError(f"reply: {header.decode(errors='replace')}")
        return int(header[3:])


class HTTP(Dialect):
    """HTTP/1.1 on a connection that is kept."""

    end = b"\r\n\r\n"

    def request(self, name: str) -> bytes:
        """Ask for a file."""
        return b"GET /" + name.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def body_size(self, header: bytes) -> int:
        """Read ``Content-Length``."""
        length = re.search(rb"\r\ncontent-length: *(\d+)", header, re.IGNORECASE)
        if not header.startswith(b"HTTP/1.1 200") or not length:
            raise BenchmarkError(f"reply: {header[:80].decode(errors='replace')}")
        return int(length[1])


DIALECTS: dict[str, Dialect] = {"line": Line(), "http": HTTP()}
"""Those that have header and body on one connection. FTP has not; see `FTPClient`."""
