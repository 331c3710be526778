"""A real Prometheus scrapes the daemons: every expression of the dashboard and the rules works."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((DEPLOY / "natproxy-dashboard.json").read_text())
RULES = DEPLOY / "natproxy.rules.yml"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed",
)

WITHOUT_DATA = {
    "natproxy_fileserver_threads_hanging",
    "natproxy_reconcile_defects",
}
"""Metrics of which a healthy pair has no sample above 0, or none in its first minute."""

CONFIG = """\
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: natproxy
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def expressions() -> list[str]:
    """Return every expression of the dashboard, as Grafana sends it."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [
        expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        for expression in found
    ]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def ended(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def read(self, path: str, **parameters: str) -> Any:
        """Return the data of a reply; `AssertionError` if Prometheus reports an error."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                content = json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert content["status"] == "success", content
        return content["data"]

    def query(self, expression: str) -> list[Any]:
        result: list[Any] = self.read("query", query=expression)["result"]
        return result

    def wait_for(self, expression: str) -> None:
        """Return when an expression has a sample."""
        until = time.monotonic() + 30
        while True:
            try:
                if self.query(expression):
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            assert time.monotonic() < until, f"{expression} has no sample"
            time.sleep(0.1)


def download(port: int, name: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"DOWNLOAD {name}\n".encode())
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(1 << 16):
            received += piece
    return received


def send_commands(port: int) -> None:
    """Send one command of each verb, an unknown one, and one for a large file."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"LIST\nSTAT a\nGET a\nLS\nHASH a\nFEAT\nODD {}\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass
    assert len(download(port, "large")) > 1 << 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """The ports of a proxy and of its metrics."""
    files = tmp_path_factory.mktemp("files")
    (files / "a").write_bytes(b"content")
    (files / "large").write_bytes(bytes(1 << 20))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.scraped_pair", str(files)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        proxy, metrics = map(int, process.stdout.readline().split())
        yield proxy, metrics
    finally:
        ended(process)


@pytest.fixture(scope="module")
def prometheus(
    pair: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    proxy, metrics = pair
    directory = tmp_path_factory.mktemp("prometheus")
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(rules=RULES, port=metrics))
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
        text=True,
    )
    try:
        found = Prometheus(port)
        # A rate needs two samples: of each series, one before the second round and one after it.
        send_commands(proxy)
        found.wait_for('natproxy_commands_total{verb="other", outcome="completed"} == 1')
        send_commands(proxy)
        found.wait_for('rate(natproxy_commands_total{verb="other", outcome="completed"}[1m]) > 0')
        found.wait_for("rate(natproxy_reactor_delay_seconds_count[1m]) > 0")
        found.wait_for("instance:natproxy_first_byte_seconds:p99_5m")
        yield found
    finally:
        ended(process)


def test_every_expression_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    assert len(expressions()) > 30
    empty = []
    for expression in expressions():
        if not prometheus.query(expression) and not any(
            name in expression for name in WITHOUT_DATA
        ):
            empty.append(expression)
    assert empty == []


def test_scrapes_succeed_and_are_understood_without_a_warning(prometheus: Prometheus) -> None:
    (target,) = prometheus.read("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_rules_are_evaluated_and_no_alert_fires(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.read("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 15
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    assert firing == []


def test_metrics_of_rules_exist(prometheus: Prometheus) -> None:
    exposed = {name.removesuffix("_bucket") for name in prometheus.read("label/__name__/values")}
    found = re.findall(r"(?<![\w:])(?:natproxy|process)_\w+", RULES.read_text())
    assert {name.removesuffix("_bucket") for name in found} - exposed <= WITHOUT_DATA


def test_kernel_figures_agree_with_the_kernel(prometheus: Prometheus) -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    (total,) = prometheus.query("natproxy_upstream_ports")
    assert 0 < int(total["value"][1]) <= last - first + 1
    (used,) = prometheus.query("natproxy_upstream_ports_used")
    assert 0 <= int(used["value"][1]) < 100


@pytest.mark.parametrize("command", [("check", "rules"), ("test", "rules")])
def test_promtool_accepts_the_rules(command: tuple[str, str]) -> None:
    file = RULES if command[0] == "check" else DEPLOY / "natproxy.rules.test.yml"
    result = subprocess.run(
        ["promtool", *command, file.name], cwd=DEPLOY, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_example_of_a_configuration_is_valid() -> None:
    result = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=DEPLOY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_names_what_to_do_and_is_tested() -> None:
    text = RULES.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) > 10
    assert len(re.findall(r"^ +action: ", text, re.MULTILINE)) == len(alerts)
    tests = (DEPLOY / "natproxy.rules.test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:", tests))
    assert set(alerts) == fired
