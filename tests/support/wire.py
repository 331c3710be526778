"""Values of the protocol for property tests, and checks of its errors."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.protocol import DIRECTORY, FILE, MAX_SIZE, Framing, Metadata, WireError

checked = settings(deadline=None, derandomize=True)


AWKWARD = st.sampled_from(b" \t\r\n\v\f\0\\%'END/\x1b\x7f\x85\xa0\xff")


awkward_bytes = st.lists(AWKWARD | st.integers(0, 255), max_size=40).map(bytes)


file_names = awkward_bytes.filter(lambda name: name and b"\0" not in name and b"/" not in name)


listing_lines = st.lists(
    st.sampled_from([b"", b"E", b"EN", b"END ", b" END", b"ENDING", b"END\r", b"END" * 2, b"a b"])
    | awkward_bytes.filter(lambda line: b"\n" not in line and line != b"END"),
    max_size=8,
)


tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)


# Some file systems have 64 bits of seconds, and Python returns them unchanged.
mtimes = st.integers(-(2**63) * 10**9, 2**63 * 10**9 - 1) | st.integers(-(10**10), 10**10)


sizes = st.integers(0, MAX_SIZE) | st.sampled_from([0, 1, MAX_SIZE])


metadata_list = st.builds(
    Metadata, st.sampled_from([FILE, DIRECTORY]) | tokens, sizes, mtimes, tokens
)


entry_names = awkward_bytes.filter(bool) | st.sampled_from(
    [b"more", b"END", b"a=b", b"size=1", b"."]
)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Pieces, some of them empty, that the bytes may come in."""
    marks = draw(st.lists(st.integers(0, len(data)), max_size=12))
    ends = [0, *sorted(marks), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@st.composite
def replies(draw: st.DrawFn) -> tuple[Framing, bytes, bytes]:
    """How an OK is framed, a header line, and the body that belongs to it."""
    framing = draw(st.sampled_from(Framing))
    if draw(st.integers(0, 4)) == 0:
        return framing, b"ERR " + draw(st.sampled_from([b"", b"file not found", b"OK 5"])), b""
    if framing is Framing.COUNTED:
        body = draw(awkward_bytes)
        return framing, b"OK %d%s" % (len(body), draw(st.sampled_from([b"", b" etag=x"]))), body
    if framing is Framing.LISTING:
        lines = draw(listing_lines)
        return framing, b"OK", b"".join(line + b"\n" for line in [*lines, b"END"])
    return framing, draw(st.sampled_from([b"OK", b"OK size=5", b"250 hello", b""])), b""


class RefusingCase(SynchronousTestCase):
    def assert_refused(self, parse: object, *arguments: object) -> None:
        with self.assertRaises(WireError) as caught:
            parse(*arguments)
        self.assert_harmless(caught.exception)

    def assert_harmless(self, error: WireError) -> None:
        """Check that the text is short, on one line, and without control characters."""
        text = str(error)
        self.assertLess(len(text), 200)
        self.assertEqual(text.splitlines(), [text])
        self.assertFalse({"Cc", "Cs"} & set(map(unicodedata.category, text)), text)
