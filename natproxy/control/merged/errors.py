"""Why a worker's part of a reply is missing."""

from __future__ import annotations

from typing import Any, NamedTuple


class NoReply(Exception):
    """A worker has not replied. The text of the exception is the reason, one phrase."""


class Refusal(NoReply):
    """A worker has replied with an error.

    :ivar status: of its reply.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Missing(NamedTuple):
    """A worker whose part is missing in a reply.

    :ivar worker: its number.
    :ivar reason: one phrase.
    """

    worker: int
    reason: str

    def __str__(self) -> str:
        """Return the sentence for people."""
        return f"worker {self.worker}: {self.reason}"

    def json(self) -> dict[str, Any]:
        """Return the object for JSON."""
        return self._asdict()
