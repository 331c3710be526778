"""Carries out requests of `natproxy.client.requests` on one blocking connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from natproxy.client.blocking.connection import Connection
from natproxy.client.blocking.reply import Reply
from natproxy.client.errors import ClientError
from natproxy.client.exchange import Exchange
from natproxy.client.requests import Request, Steps

T = TypeVar("T")


def run_steps(steps: Steps[T], carry_out: Callable[[Request[Any]], object]) -> T:
    """Run steps to their end, and return their result.

    :param carry_out: returns the result of one request, or raises `ClientError`.
    """
    try:
        request = next(steps)
        while True:
            try:
                result = carry_out(request)
            except ClientError as error:
                request = steps.throw(error)
            else:
                request = steps.send(result)
    except StopIteration as end:
        returned: T = end.value
        return returned


def send(connection: Connection, *requests: Request[Any]) -> None:
    """Send commands in one write; abort what is left of an earlier reply."""
    exchanges = [Exchange(request.word, request.arguments) for request in requests]
    connection.abort_reply()
    connection.send(*exchanges)


def next_reply(connection: Connection, request: Request[Any]) -> Reply:
    """Return the next reply, which is that to a request."""
    reply = connection.next_reply()
    with connection.parsing():
        request.begin(reply.header)
    return reply


def result_of(connection: Connection, request: Request[T], reply: Reply) -> T:
    """Receive the body of a reply, as far as it is needed, and return the result."""
    with connection.parsing():
        pieces = iter(reply)
        while not request.satisfied and (piece := next(pieces, None)) is not None:
            request.feed(piece)
        return request.finish()


def receive(connection: Connection, request: Request[T]) -> T:
    """Send a command and return the result of its reply."""
    send(connection, request)
    return result_of(connection, request, next_reply(connection, request))
