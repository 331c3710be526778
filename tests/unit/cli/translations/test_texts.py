from __future__ import annotations

from unicodedata import category

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.texts import (
    address_text,
    bytes_text,
    command_text,
    fitted,
    name_text,
    precise,
    shown,
    width,
)
from natproxy.records.record import Record

PRINTABLE = st.text(alphabet="ab é中ｗ\u0301")


class WidthTests(SynchronousTestCase):
    def test_wide_and_combining_characters(self) -> None:
        self.assertEqual([width(text) for text in ("ab", "中文", "e\u0301", "")], [2, 4, 1, 0])

    @given(text=PRINTABLE, columns=st.integers(0, 12), right=st.booleans())
    def test_fitted_text_has_the_columns(self, text: str, columns: int, right: bool) -> None:
        found = fitted(text, columns, right)
        self.assertEqual(width(found), columns)
        if width(text) <= columns:
            self.assertEqual(found.strip(), text.strip())

    def test_cut_is_marked(self) -> None:
        self.assertEqual(fitted("abcdefgh", 6), "abc...")
        # A wide character that would not fit as a whole leaves a space.
        self.assertEqual(fitted("中文中文", 6), "中... ")
        self.assertEqual(fitted("abc", 2), "..")


class MemberTests(SynchronousTestCase):
    @given(name=st.text(), verb=st.text(), host=st.text(), port=st.none() | st.integers(1, 2**40))
    def test_every_text_is_printable(
        self, name: str, verb: str, host: str, port: int | None
    ) -> None:
        record = Record(name=name, verb=verb)
        for text in (name_text(record), command_text(record), address_text(host, port)):
            controls = {category(character) for character in text} & {"Cc", "Cf", "Zl", "Zp"}
            self.assertEqual(controls, set())

    def test_several_files_are_the_first_and_their_number(self) -> None:
        record = Record(verb="PACK", name="a%20b", files=512, others="c d")
        self.assertEqual(command_text(record), "PACK a b and 511 others")
        self.assertEqual(name_text(record._replace(files=2)), "a b and 1 other")

    def test_address(self) -> None:
        self.assertEqual(address_text("::1", 5), "[::1]:5")
        self.assertEqual(address_text("unix", 70_000), "unix#70000")
        self.assertEqual(address_text("a", None), "a")
        self.assertEqual(address_text(None, 5), "-")

    def test_bytes_have_the_total_if_there_is_more(self) -> None:
        self.assertEqual(bytes_text(Record(bytes=1_000, promised=2_000)), "1.0/2.0 kB")
        self.assertEqual(bytes_text(Record(bytes=2_020, promised=2_000)), "2.0 kB")
        self.assertEqual(bytes_text(Record(bytes=None, promised=5)), "-")

    def test_durations(self) -> None:
        found = [precise(seconds) for seconds in (-1.0, 0.0, 0.0034, 0.0999, 0.5, 9.0, 75.0)]
        self.assertEqual(found, ["0.0s", "0ms", "3ms", "0.1s", "0.5s", "9.0s", "1m15s"])

    def test_missing_value_is_a_hyphen(self) -> None:
        self.assertEqual((shown(None), shown(0), shown("")), ("-", "0", ""))
