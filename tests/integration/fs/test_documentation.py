"""The sessions in ``docs/python.md`` print what the page shows."""

from __future__ import annotations

import doctest
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.support.filesystem_server import FileSystemServer, running_server
from tests.support.parquet import ROWS, write_parquet
from tests.support.paths import ROOT

PAGE = ROOT / "docs/python.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileSystemServer]:
    directory = tmp_path / "served"
    (directory / "tables").mkdir(parents=True)
    shutil.copy(ROOT / "files/hello.txt", directory)
    (directory / "tables/days.csv").write_text("day,name\n1,Ada\n2,Grace\n")
    write_parquet(directory / "tables/numbers.parquet", ROWS, 4)
    with running_server(directory, tmp_path / "log") as server:
        yield server
    fsspec.get_filesystem_class("natproxy").clear_instance_cache()


def test_sessions_are_as_the_page_shows(server: FileSystemServer) -> None:
    # `tests.integration.client.control.test_documentation` runs those of the control socket.
    page = re.sub(r"\n## The control socket\n.*?(?=\n## )", "", PAGE.read_text(), flags=re.DOTALL)
    sessions = "\n".join(re.findall(r"```pycon\n(.*?)```", page, re.DOTALL))
    # Another pyarrow may write another header.
    sessions = re.sub(r"^file \d{7} ", "file ... ", sessions, flags=re.MULTILINE)
    sessions = sessions.replace(":9000", f":{server.port}").replace("=9000", f"={server.port}")
    example = doctest.DocTestParser().get_doctest(sessions, {}, PAGE.name, str(PAGE), 0)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert len(example.examples) > 15
    runner.run(example, out=output.append)
    assert not runner.failures, "".join(output)
    assert Path("downloads/hello.txt").read_bytes() == (ROOT / "files/hello.txt").read_bytes()
    assert Path("downloads/tables/days.csv").exists()


def test_digest_is_that_of_the_file() -> None:
    digest = hashlib.sha256((ROOT / "files/hello.txt").read_bytes()).hexdigest()
    assert f"'{digest[:16]}'" in PAGE.read_text()
