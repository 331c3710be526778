"""Runs a target: under atheris, or once for each file of a corpus."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from fuzz.targets import load, words_of

CORPUS = Path(__file__).parent / "corpus"
"""The inputs that are in the repository, a directory for each target."""

FOUND = Path(__file__).parent.parent / "build" / "fuzz"
"""Inputs that a run has found: those with new coverage, and faults."""

LONGEST = 4096
"""Bytes of an input."""

SLOWEST = 5.0
"""Seconds of CPU time that one input may take."""

MEMORY = 1024
"""MiB that the process may have."""


def fuzz(
    name: str, seconds: int | None = None, runs: int | None = None, seed: int | None = None
) -> NoReturn:
    """Run a target under atheris, and end the process; with a fault, its status is not 0.

    :param seconds: after which to stop; ``None`` for never.
    :param runs: inputs after which to stop; ``None`` for no limit.
    :param seed: with one seed, the inputs are the same ones each time; ``None`` for another one.
    """
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz: atheris is missing: pip install -e '.[fuzz]'")
    with atheris.instrument_imports(include=["natproxy"]):
        check = load(name)

    def measured(data: bytes) -> None:
        start = time.process_time()
        check(data)
        taken = time.process_time() - start
        assert taken < SLOWEST, f"{taken:.1f} seconds"

    new = FOUND / name
    faults = FOUND / "faults" / name
    new.mkdir(parents=True, exist_ok=True)
    faults.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {
        "max_len": LONGEST,
        "timeout": 60,
        "rss_limit_mb": MEMORY,
        "artifact_prefix": f"{faults}/",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    if seconds is not None:
        options["max_total_time"] = seconds
    if runs is not None:
        options["runs"] = runs
    if seed is not None:
        options["seed"] = seed
    words = words_of(name)
    if words:
        dictionary = FOUND / f"{name}.words"
        dictionary.write_text("".join(f'"{escaped(word)}"\n' for word in words))
        options["dict"] = str(dictionary)
    print(f"== {name}", flush=True)
    # New inputs are written to the first directory.
    directories = [str(each) for each in (new, CORPUS / name) if each.is_dir()]
    arguments = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, *directories], measured)
    atheris.Fuzz()
    sys.exit(0)


def escaped(word: bytes) -> str:
    """Return a word as a dictionary of libFuzzer has it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


class Fault(Exception):
    """An input does not pass its target; the text names both, and the cause is the exception."""


def replay(name: str, paths: Iterable[Path]) -> int:
    """Run a target with files, and those of directories, without atheris; return their number.

    :raises Fault: with the first file that does not pass.
    """
    check = load(name)
    count = 0
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                check(file.read_bytes())
            except Exception as error:
                raise Fault(f"{name} with {file}: {error}") from error
            count += 1
    return count
