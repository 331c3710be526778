"""``python -m benchmarks``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import measure, report
from benchmarks.errors import MissingDependency
from benchmarks.machine import raise_descriptor_limit
from benchmarks.peers import PEERS
from benchmarks.plan import Plan, quick_plan, smoke_plan
from benchmarks.session import Session
from benchmarks.works import WORKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; give the exit status."""
    options = _options(arguments)
    measure.available()
    plan = options.plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    plan = replace(plan, threads=options.threads)
    raise_descriptor_limit()
    # Whoever ends us ends what we have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    works = [WORKS[name] for name in options.works]
    session = Session(plan, works, options.peers, options.directory)
    try:
        session.run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    findings = session.findings
    report.write(findings, options.output)
    print(report.markdown(findings))
    if options.chart:
        from benchmarks import chart

        try:
            chart.draw(findings, options.output / "benchmarks.png")
        except MissingDependency as missing:
            print(f"no chart: {missing}", file=sys.stderr)
    print(f"written to {options.output}", file=sys.stderr)
    measured = {sample.work for sample in findings.samples if sample.failure is None}
    return 0 if all(work.name in measured for work in findings.works) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure natproxy side by side with other proxies and file servers.",
        epilog=f"works: {', '.join(WORKS)}; peers: {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--works", type=_names(WORKS), default=list(WORKS), help="separated by commas; all"
    )
    parser.add_argument(
        "--peers", type=_names(PEERS), default=[], help="separated by commas; all that are found"
    )
    parser.add_argument("--rounds", type=int, default=0, help="times that all is done; 5, quick: 1")
    parser.set_defaults(plan=Plan)
    parser.add_argument(
        "--quick",
        dest="plan",
        action="store_const",
        const=quick_plan,
        help="small amounts: about a minute",
    )
    parser.add_argument(
        "--smoke",
        dest="plan",
        action="store_const",
        const=smoke_plan,
        help="next to nothing, to see that it runs",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of HAProxy, and worker processes of nginx; 1"
    )
    parser.add_argument(
        "--directory", type=Path, help="where files are served from and saved; a temporary one"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/benchmarks"), help="directory; build/benchmarks"
    )
    parser.add_argument("--no-chart", dest="chart", action="store_false", help="table and JSON")
    return parser.parse_args(arguments)


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name}: one of {', '.join(known)} is needed")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
