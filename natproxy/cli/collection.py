"""Garbage collection for commands that hold very many small objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (20_000, 20, 50)
"""Objects that are created between two collections, and collections between older ones.

By default there is a collection for each 700: a fifth of the time of a ``sync`` of 100,000 files.
"""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage less often within the block: a plan has no cycles, and a million tuples."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
