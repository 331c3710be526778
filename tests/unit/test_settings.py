"""Rules for values, their sources, and the TOML that is shown."""

from __future__ import annotations

import math
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from natproxy.settings import (
    DEFAULT,
    Choice,
    Flag,
    Found,
    Rule,
    Seconds,
    Setting,
    SettingError,
    Source,
    Table,
    Text,
    Texts,
    WholeNumber,
    resolve,
)
from natproxy.toml import format_settings
from natproxy.toml_values import to_toml

DRAIN = Setting("a-drain", Seconds(0), "X_A_DRAIN", 30.0)
SIZE = Setting("size", WholeNumber(1, 9), "X_SIZE")


class RuleTests(SynchronousTestCase):
    def assert_valid(self, rule: Rule[Any], values: dict[object, object]) -> None:
        for value, expected in values.items():
            result = rule.parse(value) if isinstance(value, str) else rule.check(value)
            self.assertEqual((type(result), result), (type(expected), expected))

    def assert_invalid(self, rule: Rule[Any], message: str, *values: object) -> None:
        for value in values:
            read = rule.parse if isinstance(value, str) else rule.check
            error = self.assertRaises(ValueError, read, value)
            self.assertEqual(str(error), message)

    def test_seconds(self) -> None:
        self.assert_valid(Seconds(), {"1e2": 100.0, "0.001": 0.001, 5: 5.0, 2.5: 2.5})
        message = "must be at least 0.001 seconds"
        self.assert_invalid(Seconds(), message, "0", "-inf", 0, -1, -(10**400))
        finite = "must be a finite number of seconds"
        self.assert_invalid(Seconds(), finite, "inf", "1e999", math.inf, 10**400)
        number = "must be a number of seconds"
        self.assert_invalid(Seconds(), number, "soon", "", True, None, [1], math.nan)
        self.assert_invalid(
            Seconds(1, 2), "must be at least 1 and at most 2 seconds", 0.5, 2.5, 10**400
        )

    def test_whole_numbers(self) -> None:
        self.assert_valid(WholeNumber(0), {"0": 0, "007": 7, 5: 5})
        message = "must be a whole number from 0 up"
        self.assert_invalid(WholeNumber(0), message, "-1", "1.0", " 1", "1" * 10000, 1.0, False, -1)
        self.assert_invalid(WholeNumber(1, 9), "must be a whole number from 1 to 9", "0", 10)
        large = "must be a whole number from 0 to 999999999"
        self.assert_invalid(WholeNumber(), large, 10**9, 10**30, "1" * 10)

    def test_choices_and_texts(self) -> None:
        self.assert_valid(Choice("a", "b"), {"a": "a"})
        self.assert_invalid(Choice("a", "b"), "must be one of a, b", "c", "", 1)
        self.assert_valid(Text(), {" ": " ", "a b": "a b"})
        self.assert_invalid(Text(), "must be a string", 1, None)
        self.assert_invalid(Text(), "must not be empty", "")
        self.assert_invalid(Text(), "must not contain a NUL character", "a\0b")

    def test_lists_of_texts(self) -> None:
        self.assert_valid(Texts(), {" a  b ": ("a", "b"), ("a b",): ("a b",)})
        self.assertEqual(Texts().check("a b"), ("a b",))
        self.assert_invalid(Texts(), "must be a string, or a list of at least one", "", (), (1,), 1)
        self.assert_valid(Texts(least=0), {"": (), (): (), "a": ("a",)})
        self.assert_invalid(Texts(least=0), "must be a string, or a list", (1,), 1, None)
        self.assert_invalid(Texts(), "must not be empty", ("a", ""))
        self.assert_invalid(Texts(), "must not contain a NUL character", "a b\0")

    def test_flags(self) -> None:
        self.assert_valid(Flag(), {"yes": True, "TRUE": True, "0": False, True: True})
        self.assert_invalid(Flag(), "must be true or false", "2", "", 0)


class ErrorTests(SynchronousTestCase):
    def test_messages_are_one_line_that_a_terminal_shows_as_it_is(self) -> None:
        table = Table("fi\nle", "", {"a\n\x1b[31m\u202e": 1})
        error = self.assertRaises(SettingError, resolve, [SIZE], {}, {}, table)
        shown = r"fi\nle: a\n\x1b[31m\u202e: unknown key; known are size"
        self.assertEqual((str(error), error.messages), (shown, (shown,)))

    def test_value_of_a_repeated_option(self) -> None:
        listen = Setting("listen", Texts(), "X_LISTEN", ("a",))
        error = self.assertRaises(SettingError, resolve, [listen], {"listen": ["a", ""]}, {}, None)
        self.assertEqual(str(error), "--listen a : must not be empty")

    def test_very_long_key(self) -> None:
        table = Table("file", "", {"siz" + "e" * 10**6: 1})
        error = self.assertRaises(SettingError, resolve, [SIZE], {}, {}, table)
        self.assertTrue(str(error).endswith("e: unknown key; known are size"))


class ResolveTests(SynchronousTestCase):
    def test_last_source_that_has_a_value_counts(self) -> None:
        table = Table("file", "x", {"a-drain": 1})
        for options, environment, expected in (
            ({"a-drain": "3"}, {"X_A_DRAIN": "2"}, (3.0, Source("option", "--a-drain"))),
            ({}, {"X_A_DRAIN": "2"}, (2.0, Source("environment", "X_A_DRAIN"))),
            ({}, {"X_A_DRAIN": ""}, (1.0, Source("file", "file: x.a-drain"))),
        ):
            found = resolve([DRAIN], options, environment, table)
            self.assertEqual(found, {"a_drain": expected})
        self.assertEqual(resolve([DRAIN], {}, {}, None), {"a_drain": (30.0, DEFAULT)})

    def test_variable_that_an_option_overrides_is_not_checked(self) -> None:
        found = resolve([SIZE], {"size": 5}, {"X_SIZE": "many"}, None)
        self.assertEqual(found["size"].value, 5)

    def test_all_errors_are_reported(self) -> None:
        table = Table("file", "x", {"a-drain": -1, "sise": 1})
        error = self.assertRaises(SettingError, resolve, [DRAIN, SIZE], {"size": "0"}, {}, table)
        self.assertEqual(
            error.messages,
            (
                "file: x.a-drain -1: must be at least 0 seconds",
                "--size 0: must be a whole number from 1 to 9",
                "file: x.sise: unknown key; did you mean x.size?",
            ),
        )
        self.assertEqual(str(error), error.messages[0])


class TOMLTests(SynchronousTestCase):
    def test_values(self) -> None:
        for value, expected in (
            (True, "true"),
            (1.0, "1.0"),
            (7, "7"),
            ('a "b"\n\x7fü', '"a \\"b\\"\\n\\u007fü"'),
            (("a", "b"), '["a", "b"]'),
            ({"a": 1, "b c": ["d", {}]}, '{a = 1, "b c" = ["d", {}]}'),
        ):
            self.assertEqual(to_toml(value), expected)

    def test_settings_with_their_sources(self) -> None:
        found = {"a_drain": Found(1.0, Source("environment", "X")), "size": Found(None, DEFAULT)}
        self.assertEqual(
            format_settings([DRAIN, SIZE], found, "x"),
            "[x]\na-drain = 1.0  # environment X\n# size         # not set\n",
        )
