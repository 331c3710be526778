"""Remote names are UTF-8 whatever the locale is; local names are the locale's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fs.test_fs import Running, running
from tests.support.paths import ROOT

SOURCES = Path("/usr/share/i18n/locales/de_DE")

SCRIPT = r"""
import errno, os, sys
from twisted.internet.task import react
from natproxy.client import NotFound, connect
from natproxy.client.twisted import connect as deferred_connect
from natproxy.fs import NatproxyFileSystem

encoding, port, place = sys.argv[1], int(sys.argv[2]), os.fsencode(sys.argv[3])
assert sys.getfilesystemencoding() == encoding, sys.getfilesystemencoding()
os.chdir(place)
CAFE, RAW, EURO = "/uni/caf\xe9.txt", "/uni/\udcff", "/uni/\u20ac"

fs = NatproxyFileSystem("127.0.0.1", port, retries=0)
assert fs.exists(CAFE) and fs.isfile(RAW) and fs.isdir("/uni") and fs.exists(EURO)
assert sorted(fs.ls("/uni", detail=False)) == sorted([CAFE, RAW, EURO])
assert sorted(fs.find("/")) == sorted([CAFE, RAW, EURO])
assert fs.glob("/uni/caf*") == [CAFE]
assert fs.info(CAFE)["name"] == CAFE
assert fs.cat_file(CAFE) == fs.cat(CAFE) == b"cafe" and fs.cat_file(RAW) == b"raw"
with fs.open(CAFE) as file:
    assert file.read() == b"cafe"
assert not fs.exists("/uni/caf\udce9.txt")

# A local name of the caller's own.
fs.get_file(CAFE, "plain")
assert open("plain", "rb").read() == b"cafe"
fs.get(CAFE, "plain")
# A local name made of the remote one: in the locale's encoding, or a clear error.
os.mkdir("got")
fs.get(RAW, "got/")
assert os.listdir(b"got") == [b"\xff"]
for name, local in ((CAFE, "got/caf\xe9.txt"), (EURO, "got/\u20ac")):
    try:
        expected = os.fsencode(local)
    except UnicodeEncodeError:
        try:
            fs.get(name, "got/")
        except OSError as error:
            assert error.errno == errno.EILSEQ
            assert str(error).isascii() and encoding in str(error), str(error)
        else:
            raise AssertionError(f"{ascii(name)} has a local name")
    else:
        fs.get(name, "got/")
        assert os.path.exists(expected)
fs.close()

with connect(f"127.0.0.1:{port}") as session:
    assert session.stat(CAFE).size == 4
    assert session.read(CAFE) == b"cafe"
    assert session.open(CAFE).read() == b"cafe"
    assert session.hash(CAFE).size == 4
    names = [entry.name for entry in session.ls("/uni")]
    assert names == [b"uni/caf\xc3\xa9.txt", b"uni/\xe2\x82\xac", b"uni/\xff"]
    assert [entry.name for entry in session.ls(EURO)] == [b"uni/\xe2\x82\xac"]
    with session.get_v1("uni/caf\xe9.txt") as reply:
        assert b"".join(reply) == b"cafe"
    # Without a destination, the local name has the remote one's bytes.
    assert session.download(CAFE) == b"caf\xc3\xa9.txt"
    assert open(b"caf\xc3\xa9.txt", "rb").read() == b"cafe"


async def main(reactor):
    async with await deferred_connect(reactor, f"127.0.0.1:{port}") as client:
        assert (await client.stat(CAFE)).size == 4
        assert await client.read(CAFE) == b"cafe"
        assert len(await client.ls(CAFE)) == 1
        try:
            await client.stat("\ud800")
        except NotFound:
            print("done")


react(main)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    served = os.fsencode(tmp_path_factory.mktemp("served"))
    os.mkdir(served + b"/uni")
    for name, content in (
        ("uni/café.txt".encode(), b"cafe"),
        ("uni/€".encode(), b"euro"),
        (b"uni/\xff", b"raw"),
    ):
        with open(os.path.join(served, name), "wb") as file:
            file.write(content)
    with running(Path(os.fsdecode(served)), tmp_path_factory.mktemp("log") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for a locale whose encoding is ISO 8859-1."""
    localedef = shutil.which("localedef")
    if localedef is None or not SOURCES.exists():
        pytest.skip("there is no localedef, or no source of a locale")
    place = tmp_path_factory.mktemp("locales")
    command = [localedef, "-i", "de_DE", "-f", "ISO-8859-1", str(place / "de_DE.ISO-8859-1")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(place)}


def check(encoding: str, locale: dict[str, str], server: Running, tmp_path: Path) -> None:
    """Run the script in a locale."""
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **locale}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, encoding, str(server.port), str(tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, b"done\n"), result.stderr.decode()


def test_names_under_an_ascii_locale(server: Running, tmp_path: Path) -> None:
    check("ascii", {"LC_ALL": "C"}, server, tmp_path)


def test_names_under_a_latin1_locale(
    latin1: dict[str, str], server: Running, tmp_path: Path
) -> None:
    check("iso8859-1", latin1, server, tmp_path)
