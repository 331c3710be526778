"""The NAT table: which client is behind which upstream connection."""

from natproxy.nat.entry import NATEntry
from natproxy.nat.events import Event, Failed, Registered, Relaying, Removed
from natproxy.nat.recorder import Recorder
from natproxy.nat.subscribers import Subscribers
from natproxy.nat.table import NATTable, NotInTable, TranslationExists
from natproxy.nat.translation import Earlier, EntryState, Outcome, TranslationKey

__all__ = [
    "Earlier",
    "EntryState",
    "Event",
    "Failed",
    "NATEntry",
    "NATTable",
    "NotInTable",
    "Outcome",
    "Recorder",
    "Registered",
    "Relaying",
    "Removed",
    "Subscribers",
    "TranslationExists",
    "TranslationKey",
]
