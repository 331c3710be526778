"""The resource ``/metrics``, read by the parsers of prometheus_client."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from unittest import mock, skipUnless

from twisted.internet.defer import FirstError, fail
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from natproxy.metrics.families import Family, Histogram, Kind, gauge, histogram
from natproxy.metrics.kernel import PortFigures
from natproxy.metrics.proxy import ProxyMetrics
from natproxy.metrics.resource import MOST_READERS, MetricsResource, encode, metrics_resource
from natproxy.records.record import Origin
from tests.support.doubles import PlayedThread
from tests.support.logged_errors import LoggedErrorsCase
from tests.support.proxies import ProxyCase

INSTALLED = find_spec("prometheus_client") is not None
if INSTALLED:
    from prometheus_client.openmetrics.parser import (
        text_string_to_metric_families as parse_openmetrics,
    )
    from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@skipUnless(INSTALLED, "prometheus_client is not installed")
class ResourceTests(LoggedErrorsCase, ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.thread = PlayedThread()
        self.metrics = ProxyMetrics(
            self.factory, Origin('a"b\\c', 0, "b00t"), in_thread=self.thread
        )
        self.metrics._ports._read = lambda _: PortFigures(100, 3, 1)
        resource = metrics_resource(self.metrics)
        assert isinstance(resource, MetricsResource)
        self.resource = resource

    def request(self, accept: str | None = None, method: bytes = b"GET") -> DummyRequest:
        request = DummyRequest([b"metrics"])
        request.method = method
        if accept is not None:
            request.requestHeaders.setRawHeaders("accept", [accept])
        self.assertIs(self.resource.render(request), NOT_DONE_YET)
        return request

    def text(self, request: DummyRequest) -> str:
        if self.thread.asked:
            self.thread.run()
        self.assertEqual(request.finished, 1)
        return b"".join(request.written).decode()

    def test_text(self) -> None:
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        request = self.request()
        found = {family.name: family for family in parse_text(self.text(request))}
        (content_type,) = request.responseHeaders.getRawHeaders("content-type")
        self.assertTrue(content_type.startswith("text/plain; version=0.0.4"), content_type)
        commands = found["natproxy_commands"]
        self.assertEqual(commands.type, "counter")
        (listed,) = [
            sample
            for sample in commands.samples
            if sample.labels == {"verb": "LIST", "outcome": "completed"}
        ]
        self.assertEqual((listed.name, listed.value), ("natproxy_commands_total", 1.0))
        self.assertEqual(found["natproxy_upstream_ports_free"].samples[0].value, 97.0)
        self.assertEqual(found["natproxy_build_info"].samples[0].labels["name"], 'a"b\\c')
        self.assertIn("process_open_fds", found)

    def test_openmetrics(self) -> None:
        self.travelling(b"LIST\n").send(b"OK\nEND\n")
        request = self.request(OPENMETRICS)
        text = self.text(request)
        (content_type,) = request.responseHeaders.getRawHeaders("content-type")
        self.assertTrue(content_type.startswith("application/openmetrics-text"), content_type)
        self.assertTrue(text.endswith("# EOF\n"))
        kinds = {family.name: family.type for family in parse_openmetrics(text)}
        self.assertEqual(kinds["natproxy_build"], "info")
        self.assertEqual(kinds["natproxy_connect_seconds"], "histogram")

    def test_head_has_no_body(self) -> None:
        self.assertEqual(self.text(self.request(method=b"HEAD")), "")

    def test_client_that_goes_while_the_kernel_is_read(self) -> None:
        request = self.request()
        request.processingFailed(ValueError("gone"))
        self.thread.run()
        self.assertEqual(request.written, [])

    def test_crowd_of_readers_is_refused(self) -> None:
        waiting = [self.request() for _ in range(MOST_READERS)]
        refused = DummyRequest([b"metrics"])
        self.assertIn(b"too many", self.resource.render(refused))
        self.assertEqual(refused.responseCode, 503)
        self.assertEqual(self.thread.calls, 1)
        for request in waiting:
            self.text(request)
        self.text(self.request())

    def test_error_is_logged_and_reported(self) -> None:
        self.metrics.families = lambda: 1 // 0
        request = self.request()
        self.thread.run()
        self.assertEqual((request.responseCode, request.finished), (500, 1))
        self.assertEqual(self.flush(ZeroDivisionError), 1)

    def test_error_of_the_thread_does_not_count_as_a_reader_for_ever(self) -> None:
        self.metrics.refresh = lambda: fail(OSError("no threads"))
        for _ in range(MOST_READERS + 1):
            request = self.request()
            self.assertEqual((request.responseCode, request.finished), (500, 1))
            self.assertEqual(self.flush(FirstError), 1)


class MissingTests(ProxyCase):
    def test_without_prometheus_client_there_is_no_resource(self) -> None:
        metrics = ProxyMetrics(self.factory, Origin("proxy-9000", 0, "b00t"))
        with mock.patch.dict(sys.modules, {"prometheus_client": None}):
            self.assertIsNone(metrics_resource(metrics))


@skipUnless(INSTALLED, "prometheus_client is not installed")
class EncodeTests(ProxyCase):
    def test_buckets_are_cumulative(self) -> None:
        seen = Histogram((0.5, 1.0))
        for value in (0.1, 0.7, 0.8, 9.0):
            seen.observe(value)
        _, text = encode([histogram("h", "text", seen)], "")
        for line in (
            b'h_bucket{le="0.5"} 1.0',
            b'h_bucket{le="1.0"} 3.0',
            b'h_bucket{le="+Inf"} 4.0',
            b"h_count 4.0",
            b"h_sum 10.6",
        ):
            self.assertIn(line, text.splitlines())

    def test_label_values_are_escaped(self) -> None:
        family = Family("f", Kind.GAUGE, "text", ("kind",), [(('"\n\\',), 1)])
        _, text = encode([family, gauge("g", "text", None)], "")
        self.assertIn(b'f{kind="\\"\\n\\\\"} 1.0', text)
        (first, *_) = parse_text(text.decode())
        self.assertEqual(first.samples[0].labels, {"kind": '"\n\\'})
