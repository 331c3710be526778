"""``python -m fuzz TARGET`` or ``--all``: see ``fuzz/README.md``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from fuzz.engine import CORPUS, fuzz, replay
from fuzz.targets import NAMES


def main() -> int:
    """Run the targets of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("target", nargs="?", choices=NAMES)
    parser.add_argument("--all", action="store_true", help="every target, one after the other")
    parser.add_argument("--seconds", type=int, help="time, shared among all targets")
    parser.add_argument("--runs", type=int, help="inputs of each target")
    parser.add_argument("--seed", type=int, help="the same inputs each time, as in .ci/run")
    parser.add_argument(
        "--replay", nargs="*", type=Path, metavar="FILE", help="only run files, or the corpus"
    )
    arguments = parser.parse_args()
    if arguments.all == (arguments.target is not None):
        parser.error("one of TARGET and --all is needed")
    names = NAMES if arguments.all else (arguments.target,)
    if arguments.replay is not None:
        for name in names:
            count = replay(name, arguments.replay or [CORPUS / name])
            print(f"{name}: {count} inputs", flush=True)
        return 0
    seconds = arguments.seconds and max(1, arguments.seconds // len(names))
    if not arguments.all:
        fuzz(arguments.target, seconds, arguments.runs, arguments.seed)
    limits = [f"--seconds={seconds}"] * (seconds is not None)
    limits += [f"--runs={arguments.runs}"] * (arguments.runs is not None)
    limits += [f"--seed={arguments.seed}"] * (arguments.seed is not None)
    # libFuzzer ends its process, and what it instruments it instruments once.
    statuses = [
        subprocess.run([sys.executable, "-m", "fuzz", name, *limits]).returncode for name in names
    ]
    for name, status in zip(names, statuses, strict=True):
        if status:
            print(f"fuzz: {name} ended with status {status}", file=sys.stderr)
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
