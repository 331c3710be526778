"""Pipelining: commands that are sent before the replies to earlier ones have been received."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from natproxy.client.blocking.connection import Connection
from natproxy.client.errors import ClientError, ServerError, Unsupported, UsageError
from natproxy.client.exchange import Exchange
from natproxy.client.requests import Request
from natproxy.client.version import Negotiation, State

T = TypeVar("T")


class Pipeline(Generic[T]):
    """Carries out requests in order over one connection.

    :param connection: must not be used by another caller meanwhile.
    :param negotiation: which verbs may be pipelined.
    :param carry_out: sends a request that must not be pipelined on the connection, and returns
        its result.
    """

    def __init__(
        self,
        connection: Connection,
        negotiation: Negotiation,
        carry_out: Callable[[Request[T]], T],
    ) -> None:
        self._connection = connection
        self._negotiation = negotiation
        self._carry_out = carry_out
        # Those that have been sent. One that cannot be sent has its error instead.
        self._sent: deque[tuple[Request[T], ClientError | None]] = deque()

    def results(
        self, requests: Iterable[Request[T]], ahead: int
    ) -> Iterator[tuple[Request[T], T | ClientError]]:
        """Yield each request with its result; see `Session.pipeline`.

        :param ahead: commands without a complete reply at most.
        """
        remaining = iter(requests)
        single: Request[T] | None = None
        while True:
            # Half of the commands are sent at once: one write for each costs as much as a reply.
            if single is None and len(self._sent) <= ahead // 2:
                following, single = self._following(remaining, ahead - len(self._sent))
                self._send(following)
            if self._sent:
                request, error = self._sent.popleft()
                yield request, error or self._receive(request)
            elif single is not None:
                request, single = single, None
                yield request, self._carry_out_single(request)
            else:
                return

    def _following(
        self, remaining: Iterator[Request[T]], number: int
    ) -> tuple[list[Request[T]], Request[T] | None]:
        """Return the next requests that may be sent, and the one after them if it is sent alone."""
        following: list[Request[T]] = []
        for request in islice(remaining, number):
            if not self._may_follow(request):
                return following, request
            following.append(request)
        return following, None

    def _may_follow(self, request: Request[T]) -> bool:
        """Return whether a request may be sent before earlier replies, and later ones after it.

        The peer must be known to find the end of its reply.
        """
        if request.word in self._connection.understood:
            return True
        confirmed = self._negotiation.state is State.CONFIRMED
        return confirmed and bool(request.purpose) and not request.optional

    def _send(self, requests: list[Request[T]]) -> None:
        exchanges = []
        for request in requests:
            try:
                if request.optional:
                    self._negotiation.require(request)
                exchanges.append(Exchange(request.word, request.arguments))
            except (Unsupported, UsageError) as error:
                self._sent.append((request, error))
            else:
                self._sent.append((request, None))
        if exchanges:
            self._connection.send(*exchanges)

    def _receive(self, request: Request[T]) -> T | ClientError:
        """Return the result of a request, or the server's error.

        :raises ClientError: for any other failure; `Unsupported` if it withdraws the verb.
        """
        if not request.optional:
            return self._result(request)
        try:
            result = self._result(request)
        except ClientError as error:
            judged = self._negotiation.judge(request, error)
            if judged is error:
                raise
            raise judged from error
        if isinstance(result, ServerError):
            return self._negotiation.judge(request, result)
        self._negotiation.proved(request)
        return result

    def _result(self, request: Request[T]) -> T | ServerError:
        try:
            reply = self._connection.next_reply()
        except ServerError as error:
            return error
        with self._connection.parsing():
            request.begin(reply.header)
            for piece in reply:
                request.feed(piece)
            return request.finish()

    def _carry_out_single(self, request: Request[T]) -> T | ClientError:
        try:
            result = self._carry_out(request)
        except (ServerError, UsageError) as error:
            return error
        self._connection.understood.add(request.word)
        return result
