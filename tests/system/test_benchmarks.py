"""The benchmark: its sums and tables, and a run so small that it says nothing about speed."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from benchmarks.bars import Bar, bars
from benchmarks.errors import BenchmarkError
from benchmarks.load.dialects import HTTP, Line
from benchmarks.peers import PEERS
from benchmarks.plan import GIB, KIB, MIB, count_text, quick_plan, size_text
from benchmarks.report import document, markdown
from benchmarks.session import Findings, Sample
from benchmarks.summary import Spread, rows
from benchmarks.works import WORKS
from tests.support.benchmarks import needs_linux_and_psutil, run

RELAY = WORKS["relay"]
CASE = RELAY.cases(quick_plan())[0].title


def findings(*samples: Sample) -> Findings:
    """What a run of the work ``relay`` could have found."""
    return Findings(
        quick_plan(),
        {"CPU": "a fast one"},
        [RELAY],
        {"natproxy": "1.0", "haproxy-splice": "2.6"},
        {"nginx-stream": "nginx is not installed"},
        list(samples),
    )


def sample(peer: str, number: int, cpu: float) -> Sample:
    """One measurement."""
    values = {"cpu_s_per_gb": cpu, "gb_per_s": 1 / cpu}
    return Sample("relay", CASE, peer, number, values)


def failed(peer: str, number: int, why: str) -> Sample:
    """One that could not be made."""
    return Sample("relay", CASE, peer, number, {}, why)


def test_spread_has_the_median_the_least_and_the_most() -> None:
    spread = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert spread == Spread(2.5, 1.0, 10.0, 4)
    assert spread.text(1) == "2.5 (1.0 to 10.0)"


def test_spread_of_one_measurement_is_shown_without_a_range() -> None:
    assert Spread.of([1234.5678]).text(2) == "1,234.57"


def test_rows_are_in_the_peers_order_and_sum_up_all_rounds() -> None:
    taken = [
        sample("haproxy-splice", 1, 0.5),
        sample("natproxy", 1, 0.2),
        sample("natproxy", 2, 0.4),
    ]
    ours, theirs = rows(taken, RELAY, CASE)
    assert (ours.peer, theirs.peer) == ("natproxy", "haproxy-splice")
    assert ours.spreads["cpu_s_per_gb"] == Spread.of([0.2, 0.4])


def test_table_names_numbers_versions_missing_peers_and_failures() -> None:
    text = markdown(
        findings(
            sample("natproxy", 1, 0.25),
            sample("natproxy", 2, 0.35),
            failed("haproxy-splice", 1, "no byte came | at all"),
        )
    )
    assert "| natproxy | 0.300 (0.250 to 0.350) | 3.43 (2.86 to 4.00) |" in text
    assert "HAProxy, splice-auto (failed in 1 round: no byte came / at all) |  |  |" in text
    assert "**Missing:** nginx stream (`nginx-stream`): nginx is not installed." in text
    assert "| HAProxy, splice-auto | haproxy-splice | 2.6 |" in text
    assert "| CPU | a fast one |" in text


def test_document_is_json_with_samples_and_their_summary() -> None:
    found = findings(sample("natproxy", 1, 0.25), failed("haproxy-splice", 1, "gone"))
    read = json.loads(json.dumps(document(found)))
    assert read["summary"][0] == {
        "work": "relay",
        "case": CASE,
        "peer": "natproxy",
        "metric": "cpu_s_per_gb",
        "median": 0.25,
        "least": 0.25,
        "most": 0.25,
        "count": 1,
    }
    assert read["samples"][1]["failure"] == "gone"
    assert read["missing"] == {"nginx-stream": "nginx is not installed"}


def test_bars_compare_medians_of_peers_that_were_measured() -> None:
    found = list(bars(findings(sample("natproxy", 1, 0.3), sample("haproxy-splice", 1, 0.4))))
    cpu, throughput = found
    assert (round(cpu.value, 3), cpu.limit_text, cpu.reached) == (0.75, "at most 0.75", True)
    assert (round(throughput.value, 3), throughput.reached) == (1.333, True)
    assert not Bar("", 0.9, 1.0, at_least=True).reached
    assert cpu.value_text == "0.75"


def test_bars_show_the_spread_of_the_ratios_of_the_rounds() -> None:
    taken = [
        *(sample("natproxy", number, cpu) for number, cpu in ((1, 0.2), (2, 0.3), (3, 0.9))),
        *(sample("haproxy-splice", number, cpu) for number, cpu in ((1, 0.4), (2, 0.5))),
        failed("haproxy-splice", 3, "gone"),
    ]
    cpu = next(bars(findings(*taken)))
    assert cpu.rounds == (0.5, 0.6)
    assert cpu.value_text == "0.67 (0.50 to 0.60)"


def test_amounts_are_written_as_people_do() -> None:
    assert [size_text(size) for size in (GIB, 16 * MIB, 4 * KIB, 7)] == [
        "1 GiB",
        "16 MiB",
        "4 KiB",
        "7 bytes",
    ]
    assert count_text(1, "stream") == "1 stream"
    assert count_text(10_000, "idle client") == "10,000 idle clients"


def test_works_name_peers_that_there_are() -> None:
    assert {name for work in WORKS.values() for name in work.peers} == set(PEERS)


def test_dialects_read_the_size_and_refuse_what_is_no_body() -> None:
    assert Line().body_size(b"OK 4096") == 4096
    assert HTTP().body_size(b"HTTP/1.1 200 OK\r\nContent-Length: 12") == 12
    with pytest.raises(BenchmarkError, match="file not found"):
        Line().body_size(b"ERR file not found")
    with pytest.raises(BenchmarkError, match="404"):
        HTTP().body_size(b"HTTP/1.1 404 Not Found\r\nContent-Length: 12")


@needs_linux_and_psutil
def test_a_small_run_writes_a_table_and_json_with_numbers_in_them(tmp_path: Path) -> None:
    """Latency is measured beside flooders for natproxy's daemons only."""
    done = run(
        *("--smoke", "--no-chart", "--works", "commands,latency", "--output", str(tmp_path)),
        *("--peers", "natproxy,portforward"),
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    assert (tmp_path / "benchmarks.md").read_text() in done.stdout
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    measured = {(line["work"], line["peer"]) for line in found["summary"]}
    assert measured == set(product(("commands", "latency"), ("natproxy", "portforward")))
    assert all(line["median"] > 0 for line in found["summary"])
    flooded = [line["peer"] for line in found["summary"] if line["case"] == "beside 6 flooders"]
    assert set(flooded) == {"natproxy"}
    limits = [bar["limit"] for bar in found["bars"] if "flooders" in bar["title"]]
    assert set(limits) == {50}


@needs_linux_and_psutil
def test_observers_are_measured_beside_a_proxy_without_them(tmp_path: Path) -> None:
    done = run("--smoke", "--no-chart", "--works", "observing,table", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    costs = {
        line["peer"]: line["median"]
        for line in found["summary"]
        if line["metric"] in ("cpu_us_per_command", "turn_ms")
    }
    assert set(costs) == {*WORKS["observing"].peers, *WORKS["table"].peers}
    assert all(cost > 0 for cost in costs.values())
    limits = [bar["limit"] for bar in found["bars"]]
    assert limits[1:] == [35, 1.03, 2, 10, 10]


def test_an_unknown_work_is_named_in_one_line() -> None:
    done = run("--works", "relay,dance")
    assert done.returncode == 2
    assert "dance: one of relay, serve," in done.stderr
