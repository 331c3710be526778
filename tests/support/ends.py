"""What relays report at their end."""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=Exception)


class Ends(list["Exception | None"]):
    """Records the ends of relays: `None` or an error for each; to be used as ``ended``."""

    def __call__(self, error: Exception | None) -> None:
        self.append(error)

    def error(self, kind: type[E]) -> E:
        """Return the error of the one relay that has ended; it is of this kind."""
        (error,) = self
        assert isinstance(error, kind), error
        return error
