"""What is in the wheel, and that ``twistd`` finds it where nothing else of ours is."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LIMIT = 100
NO_COMPILED_FILES = shutil.ignore_patterns("__pycache__", "dropin.cache", "*.egg-info")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without our own import path, and give its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_options() -> list[str]:
    """Fetch no build tools if those at hand will do."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return []
    return ["--no-build-isolation"] if int(version.split(".")[0]) >= 77 else []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made from: a build leaves its traces there."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("natproxy", "twisted", "man"):
        shutil.copytree(ROOT / name, copy / name, ignore=NO_COMPILED_FILES)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory)
    run(*pip, *build_options(), ".", cwd=source)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The names of what is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel installed, and its dependencies, and no more."""
    directory = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=directory)
    # Dependencies come from this environment. A plain path is not searched for .pth
    # files, so that an editable install of ours is not among them.
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with nothing in it."""
    return tmp_path_factory.mktemp("elsewhere")


def test_wheel_holds_every_module_and_the_type_marker(source: Path, names: set[str]) -> None:
    modules = {str(path.relative_to(source)) for path in source.glob("natproxy/**/*.py")}
    assert {"natproxy/protocol/__init__.py", "natproxy/relay/__init__.py"} <= modules
    assert modules | {"natproxy/py.typed"} <= names


def test_wheel_holds_every_data_file_of_the_package(source: Path, names: set[str]) -> None:
    files = {str(path.relative_to(source)) for path in source.glob("natproxy/**/*.*")}
    data = {name for name in files if not name.endswith((".py", ".pyc"))}
    assert "natproxy/web/static/page.html" in data
    assert "natproxy/journal/postgres/migrations/0001.sql" in data
    assert data <= names


def test_wheel_does_not_shadow_twisted(names: set[str]) -> None:
    ours = {name for name in names if name.startswith("twisted/")}
    assert ours == {"twisted/plugins/natproxy_dropin.py"}


def test_wheel_holds_nothing_that_is_not_to_be_installed(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith((".dist-info", ".data"))}
    assert packages == {"natproxy", "twisted"}
    data = {name.partition("/data/")[2] for name in names if ".data/" in name}
    assert data == {"share/man/man1/natproxy.1"}


def test_installed_package_is_the_one_from_the_wheel(python: Path, elsewhere: Path) -> None:
    where = run(python, "-c", "import natproxy; print(natproxy.__file__)", cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(python.parent.parent)


def test_twistd_lists_both_plugins_from_any_directory(python: Path, elsewhere: Path) -> None:
    script = "from twisted.scripts.twistd import run; run()"
    lines = run(python, "-c", script, "--help", cwd=elsewhere).splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("    ") and line.strip()}
    assert {"fileserver", "natproxy"} <= listed


@pytest.mark.parametrize("module", ["twisted.plugins.natproxy_dropin", "natproxy.protocol"])
def test_reactor_is_not_imported_by(module: str, python: Path, elsewhere: Path) -> None:
    script = f"import sys, {module}; print('twisted.internet.reactor' in sys.modules)"
    assert run(python, "-c", script, cwd=elsewhere) == "False\n"


def test_version_of_the_wheel_is_that_of_the_package(
    wheel: Path, python: Path, elsewhere: Path
) -> None:
    version = run(python, "-c", "import natproxy; print(natproxy.__version__)", cwd=elsewhere)
    assert wheel.name.split("-")[:2] == ["natproxy", version.strip()]
