"""The resource ``/metrics``: the families of the daemons in the formats of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from twisted.internet.defer import gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from natproxy.metrics.daemon import DaemonMetrics
from natproxy.metrics.families import Buckets, Family, Kind

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MOST_READERS = 8
"""Requests that wait for the kernel's figures; more are refused."""


def metrics_resource(*metrics: DaemonMetrics) -> IResource | None:
    """Return the resource of the daemons of this process.

    :return: ``None`` if prometheus_client is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        return None
    return MetricsResource(*metrics)


class MetricsResource(Resource):
    """Replies with the metrics, as text or, if ``Accept`` names it, as OpenMetrics.

    The counters are read in one turn of the reactor, which takes a millisecond or two; what comes
    from the kernel is read in a thread before.

    :param metrics: of the daemons.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, *metrics: DaemonMetrics) -> None:
        super().__init__()
        self._metrics = metrics
        self._waiting = 0

    def render_GET(self, request: Request) -> bytes | int:
        """Reply when the kernel's figures are read."""
        if self._waiting >= MOST_READERS:
            request.setResponseCode(503)
            return b"too many requests for metrics at once\n"
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        self._waiting += 1
        refreshed = gatherResults([each.refresh() for each in self._metrics], consumeErrors=True)

        def ended(result: list[object] | Failure) -> list[object] | Failure:
            self._waiting -= 1
            return result

        def reply(_: list[object]) -> None:
            if gone:
                return
            headers = request.requestHeaders.getRawHeaders("accept") or []
            families = [family for each in self._metrics for family in each.families()]
            content_type, body = encode(families, ",".join(headers))
            request.setHeader("content-type", content_type)
            request.setHeader("content-length", str(len(body)))
            request.write(b"" if request.method == b"HEAD" else body)
            request.finish()

        def failed(failure: Failure) -> None:
            self._log.failure("cannot show the metrics", failure)
            if not gone:
                request.setResponseCode(500)
                request.finish()

        refreshed.addBoth(ended).addCallback(reply).addErrback(failed)
        return NOT_DONE_YET


def encode(families: list[Family], accept: str) -> tuple[str, bytes]:
    """Return the content type and the text of families, and of the process.

    :param accept: value of the header ``Accept``.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    ProcessCollector(registry=registry)
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)


class _Collector:
    """A collector of prometheus_client that has families already.

    :param families: all of them are collected.
    """

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield _metric(family)


def _metric(family: Family) -> Metric:
    from prometheus_client.core import Metric

    name, kind, text, labels, samples = family
    metric = Metric(name, text, kind.value)
    for values, value in samples:
        named = dict(zip(labels, values, strict=True))
        if isinstance(value, Buckets):
            _add_buckets(metric, named, value)
        elif kind is Kind.COUNTER:
            metric.add_sample(f"{name}_total", named, value)
        elif kind is Kind.INFO:
            metric.add_sample(f"{name}_info", named, value)
        else:
            metric.add_sample(name, named, value)
    return metric


def _add_buckets(metric: Metric, labels: dict[str, str], buckets: Buckets) -> None:
    seen = 0
    for bound, count in zip((*buckets.bounds, float("inf")), buckets.counts, strict=True):
        seen += count
        text = "+Inf" if bound == float("inf") else str(float(bound))
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": text}, seen)
    metric.add_sample(f"{metric.name}_count", labels, seen)
    metric.add_sample(f"{metric.name}_sum", labels, buckets.sum)
