"""fsspec's own tests of a file system, as far as they ask for nothing to be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from natproxy.fs import NatproxyFileSystem
from tests.integration.fs.test_fs import Running, running


class Seeded(NatproxyFileSystem):
    """Makes and removes what a test needs in the served directory, not through the server."""

    cachable = False

    def __init__(self, *arguments: Any, directory: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._directory = directory
        self._local = LocalFileSystem(auto_mkdir=True)

    def _served(self, path: Any) -> str:
        return f"{self._directory}/{self._strip_protocol(path)}"

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        self._local.touch(self._served(path), truncate)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._local.makedirs(self._served(path), exist_ok)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        self._local.mkdir(self._served(path), create_parents)

    def pipe(self, path: str, value: bytes | None = None, **kwargs: Any) -> None:
        self._local.pipe(self._served(path), value)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        shutil.rmtree(self._served(path))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("served")
    with running(directory, tmp_path_factory.mktemp("log") / "log") as server:
        yield server


class TestGet(AbstractFixtures, AbstractGetTests):
    """`fs.get` from and to all sorts of paths."""

    @pytest.fixture
    def fs(self, server: Running) -> Iterator[NatproxyFileSystem]:
        fs = Seeded("127.0.0.1", server.port, directory=str(server.directory), retries=0)
        yield fs
        fs.close()

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self, server: Running) -> Iterator[str]:
        yield "here"
        shutil.rmtree(Path(server.directory) / "here", ignore_errors=True)
