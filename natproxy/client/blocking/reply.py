"""A reply whose body is received piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from natproxy.client.errors import ConnectionBroken
from natproxy.client.exchange import Exchange
from natproxy.client.rate import RateMonitor


class Source(Protocol):
    """The connection that receives a reply: `natproxy.client.blocking.connection.Connection`."""

    @property
    def server(self) -> object:
        """The address that it is connected to."""

    @property
    def timeout(self) -> float:
        """Seconds to wait for each piece of a reply."""

    def is_current(self, exchange: Exchange) -> bool:
        """Return whether this exchange is the one whose reply the connection receives."""

    def receive(self) -> bytes:
        """Receive a piece of a reply; an empty one if the server has closed."""

    def receive_into(self, buffer: memoryview) -> int:
        """Receive a piece of a reply into memory; 0 bytes if the server has closed."""

    def close(self) -> None:
        """Close the connection."""


class Reply:
    """A reply whose header has been received and is no error.

    Iterate over it, or use `receive_into`, to read its body. If the body is not read to its
    end, the connection is aborted.

    :ivar header: parsed.
    """

    def __init__(self, connection: Source, exchange: Exchange, first: bytes) -> None:
        assert exchange.header is not None
        self.header = exchange.header
        self._connection = connection
        self._exchange = exchange
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body in pieces.

        :raises ConnectionBroken: if it does not arrive completely, or much too slowly.
        """
        first, self._first = self._first, b""
        if first:
            yield first
        if self._exchange.complete:
            # As are most short replies: there is no rate to check.
            return
        monitor = self.rate_monitor()
        while not self._exchange.complete:
            began = time.monotonic()
            data = self._own_connection().receive()
            if not data:
                raise self._cut_off()
            try:
                monitor.received(len(data), time.monotonic() - began)
            except ConnectionBroken:
                self._connection.close()
                raise
            body = self._exchange.feed(data)
            if body:
                yield body

    def read(self) -> bytes:
        """Return the whole body. Memory is allocated as bytes are received.

        :raises ConnectionBroken: if it does not arrive completely.
        """
        received = bytearray()
        for piece in self:
            received += piece
        return bytes(received)

    def receive_into(self, buffer: memoryview) -> int:
        """Receive bytes of a counted body directly into memory.

        :return: how many; 0 at the end of the body, or for an empty buffer.
        :raises ConnectionBroken: if the body does not arrive completely.
        """
        if self._first:
            size = min(len(buffer), len(self._first))
            buffer[:size], self._first = self._first[:size], self._first[size:]
            return size
        wanted = min(len(buffer), self._exchange.remaining)
        if not wanted:
            return 0
        size = self._own_connection().receive_into(buffer[:wanted])
        if not size:
            raise self._cut_off()
        self._exchange.advance(size)
        return size

    def rate_monitor(self) -> RateMonitor:
        """Return the check for a body that arrives much too slowly."""
        return RateMonitor(self._connection.server, self._connection.timeout)

    @property
    def clean(self) -> bool:
        """Whether the whole reply, and nothing after it, has been received."""
        return self._exchange.clean

    def _own_connection(self) -> Source:
        # The bytes of another reply must not be returned as this one's.
        if not self._connection.is_current(self._exchange):
            raise ConnectionBroken(
                f"the rest of the reply was discarded: {self._exchange.missing} missing"
            )
        return self._connection

    def _cut_off(self) -> ConnectionBroken:
        self._connection.close()
        return ConnectionBroken(
            f"{self._connection.server} closed the connection inside the reply:"
            f" {self._exchange.missing} missing"
        )
