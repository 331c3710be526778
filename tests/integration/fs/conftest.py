"""The server and the file system that all tests of this directory use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from natproxy.fs import NatproxyFileSystem
from tests.support.filesystem_server import FileSystemServer, running_server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served directory; a module that needs files overrides it."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSystemServer]:
    with running_server(directory, tmp_path_factory.mktemp("log") / "log") as server:
        yield server
    NatproxyFileSystem.clear_instance_cache()


@pytest.fixture
def fs(server: FileSystemServer) -> Iterator[NatproxyFileSystem]:
    fs = server.filesystem()
    yield fs
    fs.close()
