"""Coroutines behind the Deferred API: functions that start them, and the steps of requests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred

from natproxy.client.errors import ClientError
from natproxy.client.requests import Request, Steps

P = ParamSpec("P")
T = TypeVar("T")


def deferred(
    function: Callable[P, Coroutine[Deferred[Any], Any, T]],
) -> Callable[P, Deferred[T]]:
    """Return a function that starts a coroutine function at once, and returns its Deferred."""

    @wraps(function)
    def start(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return start


async def run_steps(
    steps: Steps[T],
    carry_out: Callable[[Request[Any]], Coroutine[Deferred[Any], Any, object]],
) -> T:
    """Run steps to their end, and return their result.

    :param carry_out: returns the result of one request, or raises `ClientError`.
    """
    try:
        request = next(steps)
        while True:
            try:
                result = await carry_out(request)
            except ClientError as error:
                request = steps.throw(error)
            else:
                request = steps.send(result)
    except StopIteration as end:
        returned: T = end.value
        return returned
