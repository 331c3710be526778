"""What was found, as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bars import bars
from benchmarks.peers import PEERS
from benchmarks.plan import count_text
from benchmarks.session import Findings
from benchmarks.summary import Row, cases, rows
from benchmarks.works import Metric


def markdown(findings: Findings) -> str:
    """Write everything for people."""
    return "\n".join(_markdown(findings)) + "\n"


def _markdown(findings: Findings) -> Iterator[str]:
    plan = findings.plan
    yield "# natproxy, side by side"
    yield ""
    yield (
        f"Medians of {count_text(plan.rounds, 'interleaved round')}, the smallest and the largest "
        "in parentheses. CPU is user and system time of the peer's own processes. HAProxy has "
        f"{count_text(plan.threads, 'thread')}, nginx "
        f"{count_text(plan.threads, 'worker process', 'worker processes')}; no peer writes a "
        "log, unless its title says so."
    )
    yield ""
    yield from _table(["machine", ""], [list(fact) for fact in findings.machine.items()])
    yield from _table(
        ["peer", "called", "version"],
        [[PEERS[name].title, name, version] for name, version in findings.versions.items()],
    )
    for name, reason in findings.missing.items():
        yield f"- **Missing:** {PEERS[name].title} (`{name}`): {reason}."
    if findings.missing:
        yield ""
    for work in findings.works:
        yield f"## {work.title} (`{work.name}`)"
        yield ""
        yield work.note
        yield ""
        for case in cases(findings.samples, work):
            yield f"### {case}"
            yield ""
            yield from _table(
                ["peer", *(metric.title for metric in work.metrics)],
                [_cells(row, work.metrics) for row in rows(findings.samples, work, case)],
                numbers=True,
            )
    compared = [
        [bar.title, bar.value_text, bar.limit_text, "yes" if bar.reached else "**no**"]
        for bar in bars(findings)
    ]
    if compared:
        yield "## Targets"
        yield ""
        yield (
            "Ratios of medians in this run; in parentheses, the smallest and the largest ratio of "
            "one round."
        )
        yield ""
        yield from _table(["what", "measured", "target", "reached"], compared)


def _cells(row: Row, metrics: tuple[Metric, ...]) -> list[str]:
    cells = [PEERS[row.peer].title]
    if row.failures:
        cells[0] += (
            f" (failed in {count_text(len(row.failures), 'round')}: {_cell(row.failures[0])})"
        )
    for metric in metrics:
        spread = row.spreads.get(metric.key)
        cells.append(spread.text(metric.digits) if spread else "")
    return cells


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _table(head: list[str], body: list[list[str]], numbers: bool = False) -> Iterator[str]:
    rest = "---:" if numbers else "---"
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{''.join(f' {rest} |' for _ in head[1:])}"
    for line in body:
        yield f"| {' | '.join(line)} |"
    yield ""


def document(findings: Findings) -> dict[str, Any]:
    """Give everything for programs: what JSON can hold."""
    summary = []
    for work in findings.works:
        for case in cases(findings.samples, work):
            for row in rows(findings.samples, work, case):
                for key, spread in row.spreads.items():
                    summary.append(
                        {
                            "work": work.name,
                            "case": case,
                            "peer": row.peer,
                            "metric": key,
                            **asdict(spread),
                        }
                    )
    return {
        "machine": findings.machine,
        "plan": asdict(findings.plan),
        "versions": findings.versions,
        "missing": findings.missing,
        "summary": summary,
        "bars": [{**asdict(bar), "reached": bar.reached} for bar in bars(findings)],
        "samples": [{**asdict(s), "values": dict(s.values)} for s in findings.samples],
    }


def write(findings: Findings, directory: Path) -> None:
    """Write ``benchmarks.md`` and ``benchmarks.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "benchmarks.md").write_text(markdown(findings), encoding="utf-8")
    text = json.dumps(document(findings), indent=1, ensure_ascii=False)
    (directory / "benchmarks.json").write_text(text + "\n", encoding="utf-8")
