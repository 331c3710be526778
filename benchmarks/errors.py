"""What can go wrong without being a fault in the benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A measurement could not be made, for the reason that is this exception's text."""


class MissingDependency(SystemExit):
    """A package that is needed is not installed; the text says how to get it."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the benchmark needs {package}: pip install 'natproxy[bench]' or pip install {package}"
        )
