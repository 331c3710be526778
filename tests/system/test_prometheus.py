"""A real Prometheus scrapes the daemons: every expression of the dashboard and the rules works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.exchange import exchange_with
from tests.support.loopback import free_port
from tests.support.paths import ROOT
from tests.support.twistd import TWISTD, running

DEPLOY = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((DEPLOY / "dashboard.json").read_text())
RULES = DEPLOY / "rules.yml"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed",
)
scraped = pytest.mark.skipif(
    find_spec("prometheus_client") is None, reason="prometheus_client is not installed"
)

WITHOUT_DATA = {
    "natproxy_fileserver_threads_hanging",
    "natproxy_reconcile_defects",
}
"""Metrics of which a healthy pair has no sample above 0, or none in its first minute."""

CONFIG = """\
global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: natproxy
    static_configs: [{{targets: ["127.0.0.1:{proxy}"]}}]
  - job_name: natproxy-fileserver
    static_configs: [{{targets: ["127.0.0.1:{server}"]}}]
"""

LOOPBACK = "--{}=tcp:0:interface=127.0.0.1"


def expressions() -> list[str]:
    """Return every expression of the dashboard, as Grafana sends it."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [
        expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        for expression in found
    ]


def eventually(condition: Callable[[], object], otherwise: str) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


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
        self._server = f"http://127.0.0.1:{port}"
        self._base = f"{self._server}/api/v1"

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

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._server}/-/ready", timeout=10):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def wait_for(self, expression: str) -> None:
        """Return when an expression has a sample."""
        eventually(lambda: self.query(expression), f"{expression} has no sample")


def download(port: int, name: str) -> bytes:
    return exchange_with("127.0.0.1", port, f"DOWNLOAD {name}\n".encode())


def send_commands(port: int) -> None:
    """Send one command of each verb, an unknown one, and one for a large file."""
    exchange_with("127.0.0.1", port, b"LIST\nSTAT a\nGET a\nLS\nHASH a\nFEAT\nODD {}\n")
    assert len(download(port, "large")) > 1 << 20


class Pair(NamedTuple):
    """A proxy and its file server, run by ``twistd``.

    :ivar proxy: port of the proxy.
    :ivar metrics: ports of the web endpoints: the proxy's and the file server's.
    """

    proxy: int
    metrics: tuple[int, int]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    # Paths of control sockets are short.
    directory = Path(tempfile.mkdtemp())
    files = directory / "files"
    files.mkdir()
    (files / "a").write_bytes(b"content")
    (files / "large").write_bytes(bytes(1 << 20))
    (directory / "run").mkdir(mode=0o700)
    settings = {"RUNTIME_DIRECTORY": f"{directory}/run", "STATE_DIRECTORY": f"{directory}/state"}

    def start(stack: ExitStack, *arguments: str) -> tuple[int, int]:
        """Run a daemon; return its port, and that of its web endpoint."""
        command = [*TWISTD, "-n", "--pidfile=", *arguments, LOOPBACK.format("listen")]
        daemon = stack.enter_context(
            running([*command, LOOPBACK.format("web")], directory, **settings)
        )
        port = int(daemon.await_line(r"Factory starting on (\d+)"))
        return port, int(daemon.await_line(r"web endpoint: .*:(\d+)"))

    with ExitStack() as stack:
        upstream, server_web = start(stack, "fileserver", f"--files={files}")
        proxy, proxy_web = start(stack, "natproxy", f"--upstream=tcp:127.0.0.1:{upstream}")
        yield Pair(proxy, (proxy_web, server_web))
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def prometheus(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    proxy, (proxy_web, server_web) = pair
    directory = tmp_path_factory.mktemp("prometheus")
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(rules=RULES, proxy=proxy_web, server=server_web))
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
        eventually(found.ready, "Prometheus does not start")
        # A rate needs two samples: of each series, one before the second round and one after it.
        send_commands(proxy)
        for name in ("natproxy", "natproxy_fileserver"):
            found.wait_for(f'{name}_commands_total{{verb="other", outcome="completed"}} == 1')
        send_commands(proxy)
        found.wait_for('rate(natproxy_commands_total{verb="other", outcome="completed"}[1m]) > 0')
        found.wait_for('rate(natproxy_fileserver_commands_total{verb="STAT"}[1m]) > 0')
        found.wait_for("rate(natproxy_journal_rows_total[1m]) > 0")
        found.wait_for("rate(natproxy_reactor_delay_seconds_count[1m]) > 0")
        found.wait_for("instance:natproxy_first_byte_seconds:p99_5m")
        yield found
    finally:
        ended(process)


@scraped
def test_every_expression_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    assert len(expressions()) > 30
    empty = []
    for expression in expressions():
        if not prometheus.query(expression) and not any(
            name in expression for name in WITHOUT_DATA
        ):
            empty.append(expression)
    assert empty == []


@scraped
def test_scrapes_succeed_and_are_understood_without_a_warning(prometheus: Prometheus) -> None:
    targets = prometheus.read("targets")["activeTargets"]
    found = [(target["health"], target["lastError"]) for target in targets]
    assert found == [("up", ""), ("up", "")]


@scraped
def test_rules_are_evaluated_and_no_alert_fires(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.read("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 15
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    assert firing == []


@scraped
def test_metrics_of_rules_exist(prometheus: Prometheus) -> None:
    exposed = {name.removesuffix("_bucket") for name in prometheus.read("label/__name__/values")}
    found = re.findall(r"(?<![\w:])(?:natproxy|process)_\w+", RULES.read_text())
    assert {name.removesuffix("_bucket") for name in found} - exposed <= WITHOUT_DATA


@scraped
def test_kernel_figures_agree_with_the_kernel(prometheus: Prometheus) -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    (total,) = prometheus.query("natproxy_upstream_ports")
    assert 0 < int(total["value"][1]) <= last - first + 1
    (used,) = prometheus.query("natproxy_upstream_ports_used")
    assert 0 <= int(used["value"][1]) < 100


@pytest.mark.parametrize("command", [("check", "rules"), ("test", "rules")])
def test_promtool_accepts_the_rules(command: tuple[str, str]) -> None:
    file = RULES if command[0] == "check" else DEPLOY / "rules.test.yml"
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
    tests = (DEPLOY / "rules.test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:", tests))
    assert set(alerts) == fired
