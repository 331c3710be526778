"""Processes that do the same thing at the same time, and never outlive their turn."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks.errors import BenchmarkError

# What runs in a member is a closure over sockets and numbers: it must not be pickled.
_FORK = multiprocessing.get_context("fork")

Work = Callable[[], Any]
"""What a member does when it is told to go; its result goes back to the parent."""
Preparation = Callable[[], Work]
"""What a member does before that, at a time that is not measured."""


class Crew:
    """Members of a crew, one process each.

    Use it as a context manager: at the end of the block no member is left.

    :param preparations: one for each member.
    :param patience: seconds that all of it may take.
    """

    def __init__(self, preparations: Sequence[Preparation], patience: float) -> None:
        self._patience = patience
        self._deadline = time.monotonic() + patience
        self._pipes: list[Connection] = []
        self._members: list[BaseProcess] = []
        self._preparations = preparations

    def __enter__(self) -> Crew:
        for preparation in self._preparations:
            ours, theirs = _FORK.Pipe()
            member = _FORK.Process(target=_member, args=(preparation, theirs), daemon=True)
            member.start()
            theirs.close()
            self._pipes.append(ours)
            self._members.append(member)
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.kill()
        for member in self._members:
            member.join()
        for pipe in self._pipes:
            pipe.close()

    def ready(self) -> None:
        """Wait until all members are prepared.

        :raises BenchmarkError: if one has failed, or time is up.
        """
        for pipe in self._pipes:
            self._receive(pipe)

    def go(self) -> None:
        """Let all members begin."""
        for pipe in self._pipes:
            pipe.send("go")

    def results(self) -> list[Any]:
        """Wait until all members are done; give what came of it.

        :raises BenchmarkError: if one has failed, or time is up.
        """
        return [self._receive(pipe) for pipe in self._pipes]

    def _receive(self, pipe: Connection) -> Any:
        if not pipe.poll(max(0.0, self._deadline - time.monotonic())):
            raise BenchmarkError(f"not done after {self._patience:g} s")
        try:
            failed, value = pipe.recv()
        except EOFError:
            raise BenchmarkError("a load process has died") from None
        if failed:
            raise BenchmarkError(value)
        return value


def _member(preparation: Preparation, pipe: Connection) -> None:
    # Ctrl-C is for the parent, which ends its crew.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work = preparation()
        pipe.send((False, None))
        pipe.recv()
        pipe.send((False, work()))
    except Exception as error:
        with suppress(OSError):
            pipe.send((True, f"{type(error).__name__}: {error}"))
