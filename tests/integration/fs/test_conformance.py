"""fsspec's own tests of a file system, those that need no writing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from natproxy.fs import NatproxyFileSystem
from tests.support.filesystem_server import FileSystemServer


class Seeded(NatproxyFileSystem):
    """A file system that creates and removes files in the served directory, not by the server."""

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


class TestGet(AbstractFixtures, AbstractGetTests):
    """`fs.get` from and to paths of all kinds."""

    @pytest.fixture
    def fs(self, server: FileSystemServer) -> Iterator[NatproxyFileSystem]:
        fs = Seeded("127.0.0.1", server.port, directory=str(server.directory), retries=0)
        yield fs
        fs.close()

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self, server: FileSystemServer) -> Iterator[str]:
        yield "here"
        shutil.rmtree(Path(server.directory) / "here", ignore_errors=True)
