"""The benchmark's trees of small files, and the works that copy them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.bars import bars
from benchmarks.errors import BenchmarkError
from benchmarks.machine import file_system
from benchmarks.plan import Tree, quick_plan, smoke_plan
from benchmarks.processes import run_client
from benchmarks.session import Findings, Sample
from benchmarks.trees import Source, fresh_directory, inodes
from benchmarks.works import WORKS
from tests.support.benchmarks import needs_linux_and_psutil, run

TREE = Tree(120, 64, 7)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    source = Source(tmp_path, TREE)
    source.make()
    return source


def test_tree_has_the_files_in_its_directories(source: Source) -> None:
    assert len(list(source.path.iterdir())) == 7
    assert len(inodes(source.path)) == 120
    assert {(source.path / name).stat().st_size for name in source.names()} == {64}


def test_copy_with_the_same_times_is_accepted(source: Source, tmp_path: Path) -> None:
    shutil.copytree(source.path, tmp_path / "copy")
    source.check(tmp_path / "copy")


@pytest.mark.parametrize("damage", ["missing", "cut", "touched", "other"])
def test_copy_that_differs_is_refused(source: Source, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source.path, copy)
    first = copy / next(source.names())
    before = first.stat()
    if damage == "missing":
        first.unlink()
    elif damage == "touched":
        os.utime(first, (1, 1))
    else:
        first.write_bytes(b"x" * (63 if damage == "cut" else 64))
        os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BenchmarkError, match=first.name):
        source.check(copy)


def test_fresh_directory_is_empty_and_removed_with_its_content(tmp_path: Path) -> None:
    with fresh_directory(tmp_path) as first, fresh_directory(tmp_path) as second:
        assert first != second
        (first / "file").write_bytes(b"content")
        assert list(second.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_file_system_of_a_directory_is_named(tmp_path: Path) -> None:
    assert file_system(tmp_path) not in ("", "?")
    assert file_system(Path("/proc")) == "proc"


def test_client_that_fails_or_takes_too_long_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"ended with 3: no such host"):
        run_client(["sh", "-c", "echo no such host; exit 3"], tmp_path, 20)
    with pytest.raises(BenchmarkError, match="ended with -9"):
        run_client(["sleep", "20"], tmp_path, 0.01)


def test_use_of_a_client_includes_its_children(tmp_path: Path) -> None:
    busy = f"{sys.executable} -c 'sum(range(1000000))'"
    assert run_client(["sh", "-c", f"{busy}; true"], tmp_path, 60).cpu > 0.01


def test_bars_of_long_links_compare_copies_by_ratio_and_downloads_by_seconds() -> None:
    plan = quick_plan()
    far = WORKS["far"]
    copying, one, *_ = far.cases(plan)
    taken = [
        Sample("far", case.title, peer, 1, {"seconds": seconds})
        for case, peer, seconds in (
            (copying, "sync", 0.6),
            (copying, "rsync", 0.5),
            (one, "get-proxied", 0.3),
            (one, "curl", 0.1),
        )
    ]
    ratio, added = bars(Findings(plan, {}, [far], samples=taken))
    assert (round(ratio.value, 3), ratio.limit_text, ratio.reached) == (1.2, "at most 1.2", True)
    assert (round(added.value, 3), added.limit_text, added.reached) == (0.2, "at most 0.15", False)


@needs_linux_and_psutil
def test_small_files_are_copied_compared_and_copied_over_long_links(tmp_path: Path) -> None:
    done = run(
        *("--smoke", "--no-chart", "--works", "many,resync,far", "--directory", str(tmp_path)),
        *("--peers", "sync,get-proxied", "--output", str(tmp_path / "out")),
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    found = json.loads((tmp_path / "out/benchmarks.json").read_text())
    medians = {
        (line["work"], line["case"], line["metric"]): line["median"] for line in found["summary"]
    }
    plan = smoke_plan()
    for work in ("many", "resync"):
        for case in WORKS[work].cases(plan):
            for metric in ("seconds", "client_us", "server_us", "proxy_us"):
                assert medians[work, case.title, metric] > 0
    for case in WORKS["far"].cases(plan):
        # The handshake, and at least one command and its reply.
        assert medians["far", case.title, "seconds"] >= 2 * case.value.round_trip
    assert found["machine"]["file system"] == file_system(tmp_path)
    assert os.listdir(tmp_path) == ["out"]
