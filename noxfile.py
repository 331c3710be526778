"""Run the tests on every supported Python, with the lowest and the latest supported Twisted.

``nox`` runs all of it; ``nox -s 'tests-3.12(twisted="lowest")'`` one of it; ``nox -l`` lists it.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

# The lowest Twisted that ``pyproject.toml`` allows is stated there only.
_LOWEST = re.search(r'"twisted>=([0-9.]+)"', Path("pyproject.toml").read_text())
assert _LOWEST is not None
REQUIREMENTS = {"lowest": f"twisted=={_LOWEST[1]}.*", "latest": "twisted"}


@nox.session(python=PYTHONS)
@nox.parametrize("twisted", sorted(REQUIREMENTS))
def tests(session: nox.Session, twisted: str) -> None:
    """Run pytest."""
    session.install("-e", ".[test,config]", REQUIREMENTS[twisted])
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[1])
def trial(session: nox.Session) -> None:
    """Run the tests that need no pytest under trial."""
    session.install("-e", ".[test,config]")
    session.run("python", "-m", "twisted.trial", *(session.posargs or ["tests"]))


@nox.session(python=PYTHONS[1])
def lint(session: nox.Session) -> None:
    """Check style, format and types."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python=PYTHONS[1])
def reference(session: nox.Session) -> None:
    """Build the API reference in build/api; a warning is an error."""
    session.install("-e", ".[dev]")
    session.run("pydoctor")
