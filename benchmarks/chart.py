"""What was found, as a picture."""

from __future__ import annotations

from pathlib import Path

from benchmarks.errors import MissingDependency
from benchmarks.peers import PEERS
from benchmarks.session import Findings
from benchmarks.summary import Row, cases, rows
from benchmarks.works import Metric

OURS = "#1b6ca8"
THEIRS = "#b8bec4"
FLOOR = "#e3d5b8"
COLUMNS = 2


def draw(findings: Findings, path: Path) -> None:
    """Draw one panel of bars for each case: medians, and the spread as a line.

    :raises MissingDependency: if matplotlib is not there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("matplotlib") from None
    panels: list[tuple[str, Metric, list[Row]]] = []
    for work in findings.works:
        metric = work.metrics[0]
        for case in cases(findings.samples, work):
            found = [r for r in rows(findings.samples, work, case) if metric.key in r.spreads]
            if found:
                panels.append((f"{work.name}: {case}", metric, found))
    if not panels:
        return
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(7 * COLUMNS, 3.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, metric, found) in enumerate(panels, 1):
        axes = figure.add_subplot(lines, COLUMNS, number)
        spreads = [row.spreads[metric.key] for row in found]
        medians = [spread.median for spread in spreads]
        axes.barh(
            [PEERS[row.peer].title for row in found],
            medians,
            xerr=[
                [spread.median - spread.least for spread in spreads],
                [spread.most - spread.median for spread in spreads],
            ],
            color=[_colour(row.peer) for row in found],
        )
        for height, spread in enumerate(spreads):
            axes.annotate(
                f" {spread.median:,.{metric.digits}f}",
                (spread.most, height),
                va="center",
                fontsize=8,
            )
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlim(left=0)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(metric.title, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _colour(peer: str) -> str:
    if peer.endswith("-floor"):
        return FLOOR
    return OURS if peer.startswith(("natproxy", "fileserver")) else THEIRS
