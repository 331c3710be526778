"""Families and histograms, without prometheus_client."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.metrics.families import Buckets, Histogram, counter, gauge, info


class HistogramTests(SynchronousTestCase):
    def test_bound_belongs_to_its_bucket(self) -> None:
        histogram = Histogram((1.0, 2.0))
        for value in (0.5, 1.0, 1.5, 2.0, 2.5):
            histogram.observe(value)
        self.assertEqual(histogram.counts, [2, 2, 1])
        self.assertEqual(histogram.sum, 7.5)

    @given(st.lists(st.floats(0, 1e6)))
    def test_every_observation_is_in_one_bucket(self, values: list[float]) -> None:
        histogram = Histogram()
        for value in values:
            histogram.observe(value)
        bounds, counts, _ = histogram.buckets()
        self.assertEqual(sum(counts), len(values))
        for place, bound in enumerate(bounds):
            below = sum(value <= bound for value in values)
            self.assertEqual(sum(counts[: place + 1]), below)
        self.assertEqual(len(counts), bisect_left(bounds, float("inf")) + 1)

    def test_buckets_do_not_change_with_the_histogram(self) -> None:
        histogram = Histogram((1.0,))
        before = histogram.buckets()
        histogram.observe(5.0)
        self.assertEqual(before, Buckets((1.0,), (0, 0), 0.0))
        self.assertEqual(
            histogram.buckets().json(), {"bounds": [1.0], "counts": [0, 1], "sum": 5.0}
        )


class FamilyTests(SynchronousTestCase):
    def test_unknown_value_has_no_sample(self) -> None:
        self.assertEqual(gauge("a", "text", None).samples, [])
        self.assertEqual(counter("a", "text", None).samples, [])
        self.assertEqual(gauge("a", "text", 0).samples, [((), 0)])

    def test_info_has_its_labels(self) -> None:
        family = info("a", "text", {"version": "1", "boot": "b"})
        self.assertEqual(family.labels, ("version", "boot"))
        self.assertEqual(family.samples, [(("1", "b"), 1)])
