"""The NAT table: which client is behind which upstream connection."""

from natproxy.nat.table import (
    EntryState,
    NATEntry,
    NATTable,
    NotInTable,
    Outcome,
    TranslationExists,
    TranslationKey,
)

__all__ = [
    "EntryState",
    "NATEntry",
    "NATTable",
    "NotInTable",
    "Outcome",
    "TranslationExists",
    "TranslationKey",
]
