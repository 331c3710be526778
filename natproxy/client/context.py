"""Things that are to be closed, and can be had for the length of a ``with`` block."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

_Self = TypeVar("_Self", bound="Closing")


class Closing:
    """Is closed at the end of the block that it is entered for."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what it has."""
        raise NotImplementedError
