"""How a relay ends when it does not end well."""

from __future__ import annotations


class SourceShort(Exception):
    """The source ended before the body did.

    :ivar missing: what is missing, in words.
    """

    def __init__(self, missing: str) -> None:
        super().__init__(f"{missing} missing")
        self.missing = missing


class SourceChanged(Exception):
    """The source was modified while it was being sent: what has gone may be a mixture."""

    def __init__(self) -> None:
        super().__init__("the file was modified while it was being sent")


class SinkGone(Exception):
    """The peer that the bytes were for is gone."""
