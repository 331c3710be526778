"""``docs/metrics.md`` lists every family, as it is shown."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.factory import FileServerFactory
from natproxy.metrics.families import Family, Kind
from natproxy.metrics.fileserver import FileServerMetrics
from natproxy.metrics.proxy import ProxyMetrics
from natproxy.proxy.factory import ProxyFactory
from natproxy.records.record import Origin
from natproxy.storage import LocalStorage, ObjectStorage
from natproxy.storage.cache import DiskCache
from natproxy.storage.objects.location import Location
from tests.support.doubles import PlayedThread, TurnClock
from tests.support.objects import PlayedStore
from tests.support.paths import ROOT

SUFFIXES = {Kind.COUNTER: "_total", Kind.INFO: "_info", Kind.GAUGE: "", Kind.HISTOGRAM: ""}


def rows(families: Iterable[Family]) -> list[str]:
    """Return the rows of the table of families."""
    return [
        f"| `{family.name}{SUFFIXES[family.kind]}` | {family.kind.value} |"
        f" {', '.join(f'`{label}`' for label in family.labels)} | {family.help} |".replace(
            "|  |", "| |"
        )
        for family in families
    ]


def table_below(heading: str) -> list[str]:
    """Return the rows of the first table below a heading of the page."""
    page = (ROOT / "docs/metrics.md").read_text()
    section = page.partition(f"\n{heading}\n")[2]
    return section.partition("| --- | --- | --- | --- |\n")[2].partition("\n\n")[0].splitlines()


class DocumentationTests(SynchronousTestCase):
    maxDiff = None

    def test_proxy(self) -> None:
        factory = ProxyFactory(TurnClock(), None)
        metrics = ProxyMetrics(factory, Origin("", 0, ""), in_thread=PlayedThread())
        self.assertEqual(table_below("## The proxy"), rows(metrics.families()))

    def test_file_server(self) -> None:
        cache = DiskCache("", 1)
        for storage in (LocalStorage("."), ObjectStorage(Location("b"), PlayedStore(), cache)):
            factory = FileServerFactory(TurnClock(), storage, PlayedThread(), 600.0)
            metrics = FileServerMetrics(factory, Origin("", 0, ""))
            shown = rows(metrics.families())
            self.assertEqual(table_below("## The file server")[: len(shown)], shown)
        self.assertEqual(table_below("## The file server"), shown)

    def test_names_follow_the_conventions_of_prometheus(self) -> None:
        factory = ProxyFactory(TurnClock(), None)
        metrics = ProxyMetrics(factory, Origin("", 0, ""), in_thread=PlayedThread())
        for family in metrics.families():
            self.assertRegex(family.name, r"^natproxy_[a-z][a-z_]*[a-z]$")
            self.assertFalse(family.name.endswith(("_total", "_info", "_ms", "_count")))
            self.assertFalse(family.help.endswith("."), family.help)
            if family.kind is Kind.HISTOGRAM:
                self.assertTrue(family.name.endswith("_seconds"), family.name)
