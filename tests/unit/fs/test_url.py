"""URLs: the options and the path that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from natproxy.fs import NatproxyFileSystem


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("natproxy://files.example:9001/a", {"host": "files.example", "port": 9001}),
        ("natproxy://files.example", {"host": "files.example", "port": 9000}),
        ("natproxy://[0:0:0:0:0:0:0:1]:7/a", {"host": "0:0:0:0:0:0:0:1", "port": 7}),
        ("natproxy://", {}),
        ("natproxy:///a", {}),
        ("a", {}),
    ],
)
def test_options_of_a_url(url: str, options: dict[str, Any]) -> None:
    assert NatproxyFileSystem._get_kwargs_from_urls(url) == options


def test_options_of_a_malformed_url() -> None:
    with pytest.raises(ValueError, match="HOST:PORT is needed"):
        fsspec.open("natproxy://host:port/a")


def test_url_of_an_ipv6_server_is_not_taken_for_a_chain() -> None:
    fs = NatproxyFileSystem("::1", 7, skip_instance_cache=True)
    url = fs.unstrip_protocol("a")
    assert "::" not in url
    again, path = fsspec.core.url_to_fs(url)
    assert (path, again.server.port) == ("/a", 7)
    assert again.server.host.endswith(":0001")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("natproxy://h:1/a/b/", "/a/b"),
        ("natproxy://h:1", "/"),
        ("NATPROXY://h/a", "/a"),
        ("/a/b", "/a/b"),
        ("/", "/"),
        ("", "/"),
        ("natproxy::a", "/natproxy::a"),
        ("%41", "/%41"),
        (Path("a/b"), "/a/b"),
        (["a/", "/b"], ["/a", "/b"]),
    ],
)
def test_path_of_a_url(url: Any, path: Any) -> None:
    assert NatproxyFileSystem._strip_protocol(url) == path
