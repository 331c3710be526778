"""Names on the server are UTF-8, whatever the locale of the user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.encoding import argument_for, output_for, remote_name
from natproxy.cli.shell.quoting import quoted, split
from natproxy.client.errors import UsageError
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.paths import ROOT

CAFE = "café.txt".encode()
TOKYO = "東京".encode()
BYTES = b"latin\xe9"
NAMES = st.one_of(st.binary(max_size=50), st.text(max_size=50).map(str.encode))


class EncodingTests(SynchronousTestCase):
    @given(st.sampled_from(["utf-8", "ascii", "latin-1", "euc_jp", "koi8-r"]), NAMES)
    def test_argument_stands_for_its_name_again(self, encoding: str, name: bytes) -> None:
        argument = argument_for(name, encoding)
        if argument is None:
            self.assertNotIn(encoding, ("utf-8", "ascii"))
            output_for(name, encoding).decode(encoding)
            return
        # As the interpreter decodes what it is given.
        typed = argument.encode(encoding, "surrogateescape")
        self.assertEqual(remote_name(typed.decode(encoding, "surrogateescape")), name)
        self.assertEqual(output_for(name, encoding), typed)

    def test_character_that_an_encoding_does_not_return_is_escaped(self) -> None:
        self.assertIsNone(argument_for("¥".encode(), "euc_jp"))
        self.assertEqual(output_for("¥".encode(), "euc_jp"), rb"\xa5")

    @given(NAMES.map(lambda name: name.replace(b"\0", b"")).filter(bool))
    def test_word_for_a_name_stands_for_it(self, name: bytes) -> None:
        (word,) = split(quoted(name))
        self.assertEqual(remote_name(word), name)


def test_what_the_locale_has_no_characters_for_is_escaped() -> None:
    assert output_for(CAFE, "latin-1") == b"caf\xe9.txt"
    assert output_for(TOKYO, "latin-1") == b"\\u6771\\u4eac"
    assert output_for(BYTES, "latin-1") == b"latin\\xe9"
    for encoding in ("utf-8", "ascii"):
        for name in (CAFE, TOKYO, BYTES):
            assert output_for(name, encoding) == name


def test_character_without_bytes_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"'\\ud800' has no bytes"):
        remote_name("a\ud800")


# One is made of the system's own sources: few systems have it ready for use.
LATIN = "de_DE.ISO-8859-1"
LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"LC_ALL": LATIN, "PYTHONUTF8": "0"},
}


@pytest.fixture(scope="module", params=LOCALES)
def locale(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    environment = dict(LOCALES[request.param])
    if request.param == "latin-1":
        directory = tmp_path_factory.mktemp("locales")
        if shutil.which("localedef"):
            make = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(directory / LATIN)]
            subprocess.run(make, capture_output=True, timeout=60)
        if not (directory / LATIN).exists():
            pytest.skip("no locale of ISO-8859-1 can be made here")
        environment["LOCPATH"] = str(directory)
    return {**environment, "encoding": request.param}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    serving = AnsweringServer(Version2({CAFE: b"coffee", TOKYO: b"city", BYTES: b"?"}))
    yield serving.server_address
    serving.close()


def run(
    locale: dict[str, str], server: str, cwd: Path, *arguments: bytes, given: bytes = b""
) -> tuple[int, bytes, bytes]:
    ended = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"natproxy", *arguments],
        env={
            **os.environ,
            **{name: value for name, value in locale.items() if name != "encoding"},
            "NATPROXY_SERVER": server,
            "PYTHONPATH": str(ROOT),
        },
        cwd=cwd,
        input=given,
        capture_output=True,
        timeout=60,
    )
    return ended.returncode, ended.stdout, ended.stderr


def typed(name: bytes, locale: dict[str, str]) -> bytes:
    """Return the bytes that a terminal in the locale sends for a name."""
    return name if locale["encoding"] == "ascii" else name.decode().encode("latin-1")


def test_listed_names_can_be_handed_back(
    locale: dict[str, str], server: str, tmp_path: Path
) -> None:
    status, out, errors = run(locale, server, tmp_path, b"ls")
    assert (status, errors) == (0, b"")
    names = out.splitlines()
    # Sorted by the bytes that they have on the server.
    assert names[0] == typed(CAFE, locale)
    assert names[1:] == (
        [BYTES, TOKYO] if locale["encoding"] == "ascii" else [b"latin\\xe9", b"\\u6771\\u4eac"]
    )
    assert run(locale, server, tmp_path, b"cat", names[0]) == (0, b"coffee", b"")
    status, _, errors = run(locale, server, tmp_path, b"get", b"-q", names[0])
    assert (status, errors) == (0, b"")
    # Programs elsewhere know it by the bytes that it has on the server.
    assert os.listdir(os.fsencode(tmp_path)) == [CAFE]


def test_json_has_the_characters(locale: dict[str, str], server: str, tmp_path: Path) -> None:
    for command in ([b"ls"], [b"stat", typed(CAFE, locale)], [b"hash", typed(CAFE, locale)]):
        status, out, _ = run(locale, server, tmp_path, *command, b"--json")
        assert status == 0
        assert json.loads(out.decode("ascii"))[0]["name"] == "café.txt"
    names = [
        each["name"] for each in json.loads(run(locale, server, tmp_path, b"ls", b"--json")[1])
    ]
    assert names == ["café.txt", "latin\udce9", "東京"]
    status, _, errors = run(
        locale, server, tmp_path, b"get", typed(CAFE, locale), b"--progress", b"json", b"-q"
    )
    assert status == 0
    last = json.loads(errors.decode("ascii").splitlines()[-2])
    assert last["event"]["name"] == "café.txt"


def test_digests_are_of_the_names_that_files_are_saved_under(
    locale: dict[str, str], server: str, tmp_path: Path
) -> None:
    assert run(locale, server, tmp_path, b"hash", typed(CAFE, locale))[1].endswith(
        b"  " + CAFE + b"\n"
    )


def test_text_is_what_the_locale_can_show(
    locale: dict[str, str], server: str, tmp_path: Path
) -> None:
    _, out, _ = run(locale, server, tmp_path, b"stat", typed(CAFE, locale))
    shown = b"caf\\xe9.txt" if locale["encoding"] == "ascii" else b"caf\xe9.txt"
    assert out.splitlines()[0] == b"name:     " + shown


def test_prompt_takes_names_as_they_are_typed(
    locale: dict[str, str], server: str, tmp_path: Path
) -> None:
    lines = b"cat %b\ncat $'caf\\u00e9.txt'\ncat $'latin\\xe9'\ncat $'\\u6771\\xe4\\xba\\xac'\n"
    status, out, errors = run(locale, server, tmp_path, b"shell", given=lines % typed(CAFE, locale))
    assert (status, errors) == (0, b"")
    assert b"coffeecoffee?city" in out.replace(b"proxy> ", b"")


def test_completion_offers_what_can_be_typed(
    locale: dict[str, str], server: str, tmp_path: Path
) -> None:
    line = b"natproxy get "
    answer = tmp_path / "answer"
    environment = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "COMP_LINE": line.decode(),
        "COMP_POINT": str(len(line)),
    }
    status, _, errors = run({**locale, **environment}, server, tmp_path)
    assert (status, errors) == (0, b"")
    found = answer.read_bytes().split(b"\013")
    if locale["encoding"] == "ascii":
        assert found[0] == b"$'caf\\xc3\\xa9.txt'"
        assert len(found) == 3
    else:
        assert found == [b"caf\xe9.txt "]


def test_local_path_that_the_locale_has_no_bytes_for_is_one_line(
    locale: dict[str, str], server: str, tmp_path: Path
) -> None:
    line = "get -q $'latin\\xe9' -o $'\\u6771'\nlcd $'\\u6771'\nsync . $'\\u6771'\n"
    status, out, errors = run(locale, server, tmp_path, b"shell", given=line.encode())
    assert status == 2
    assert (out + errors).count(b"'\\u6771' has no bytes in ") == 3
    assert b"Traceback" not in errors
