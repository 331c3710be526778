"""Garbage collection of commands with many objects."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.collection import THRESHOLDS, rare_collections


class RareCollectionsTests(SynchronousTestCase):
    def test_thresholds_hold_within_the_block_only(self) -> None:
        before = gc.get_threshold()
        try:
            with rare_collections():
                self.assertEqual(gc.get_threshold(), THRESHOLDS)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        self.assertEqual(gc.get_threshold(), before)
