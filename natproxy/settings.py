"""Settings of a daemon or a client: the rules for their values, and where the values come from.

A value is searched for in this order: option of the command line, environment variable, TOML
file, default. The command line imports this module when it starts, so this module imports
nothing that is slow to import.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from natproxy.toml_values import to_toml

T = TypeVar("T")

SECRET = "[redacted]"  # noqa: S105  # no password
"""What is shown in place of a secret value."""

LONGEST_SHOWN = 80
"""Characters of a wrong value that a message shows."""


class SettingError(Exception):
    """Settings are wrong. The text of the exception is the first message.

    :ivar messages: one line for each wrong value or key, with its source. Characters that are not
        printable are escaped, because keys and values of a file may contain any character.
    """

    def __init__(self, *messages: str) -> None:
        self.messages = tuple(one_line(message) for message in messages)
        super().__init__(self.messages[0])


class Source(NamedTuple):
    """Where a value comes from.

    :ivar kind: one of `OPTION`, `ENVIRONMENT`, `FILE`, `DEFAULT`.
    :ivar name: an option such as ``--timeout``, the name of a variable, or the file and the
        path of the key in it, such as ``/etc/natproxy.toml: proxy.timeout``.
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.kind in (OPTION, ENVIRONMENT) else self.label

    @property
    def label(self) -> str:
        """Where an operator changes the value: an option, ``$VARIABLE``, or a key of a file.

        For a default, the word "default".
        """
        return f"${self.name}" if self.kind == ENVIRONMENT else self.name or self.kind


OPTION = "option"
ENVIRONMENT = "environment"
FILE = "file"
DEFAULT = Source("default")


class Rule(Generic[T]):
    """Converts and checks the values of a setting.

    :ivar unit: the unit of the value, as shown to people; may be empty.
    :ivar secret: whether no message may show the value.
    """

    unit = ""
    secret = False

    def parse(self, text: str) -> T:
        """Return the value that the text of an option or an environment variable stands for.

        :raises ValueError: if the text is not valid; the message begins with "must".
        """
        return self.check(text)

    def check(self, value: object) -> T:
        """Return a value of TOML or Python if it is valid, converted to the setting's type.

        :raises ValueError: if it is not valid; the message begins with "must".
        """
        raise NotImplementedError

    def plain(self, value: T) -> object:
        """Return a value as TOML and JSON have it: texts, numbers, lists and tables of them."""
        return value

    def show(self, value: T) -> str:
        """Return a value as it is written in a TOML file."""
        return to_toml(self.plain(value))


class Seconds(Rule[float]):
    """A time in seconds.

    :param least: the shortest time that is valid.
    :param most: the longest one; ``math.inf`` for any finite time.
    """

    unit = "seconds"

    def __init__(self, least: float = 0.001, most: float = math.inf) -> None:
        self.least = least
        self.most = most

    def parse(self, text: str) -> float:
        """Convert a decimal number; see `Rule`."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        return self.check(value)

    def check(self, value: object) -> float:
        """Return a number as a float, if it is in the range; see `Rule`."""
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
            raise ValueError("must be a number of seconds")
        # An integer of TOML may be too large for a float.
        if self.least <= value <= min(self.most, sys.float_info.max):
            return float(value)
        if value > self.least and self.most == math.inf:
            raise ValueError("must be a finite number of seconds")
        limit = "" if self.most == math.inf else f" and at most {self.most:g}"
        raise ValueError(f"must be at least {self.least:g}{limit} seconds")


class WholeNumber(Rule[int]):
    """A whole number; by default, of at most nine digits.

    :param least: the smallest number that is valid.
    :param most: the largest one.
    :param unit: what the number counts, as shown to people; may be empty.
    """

    def __init__(self, least: int = 0, most: int = 999_999_999, unit: str = "") -> None:
        self.least = least
        self.most = most
        self.unit = unit

    def parse(self, text: str) -> int:
        """Convert ASCII digits; see `Rule`."""
        # Python refuses to convert thousands of digits.
        digits = text.isascii() and text.isdigit() and len(text) < 100
        return self.check(int(text) if digits else None)

    def check(self, value: object) -> int:
        """Return a whole number, if it is in the range; see `Rule`."""
        # `True` is an `int` of Python.
        if type(value) is int and self.least <= value <= self.most:
            return value
        large = isinstance(value, int) and value > self.most
        if self.most == 999_999_999 and not large:
            raise ValueError(f"must be a whole number from {self.least} up")
        raise ValueError(f"must be a whole number from {self.least} to {self.most}")


class Choice(Rule[str]):
    """One of several words.

    :param words: the valid values.
    """

    def __init__(self, *words: str) -> None:
        self.words = words

    def check(self, value: object) -> str:
        """Return one of the words; see `Rule`."""
        if isinstance(value, str) and value in self.words:
            return value
        raise ValueError(f"must be one of {', '.join(self.words)}")


class Flag(Rule[bool]):
    """A boolean."""

    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

    def parse(self, text: str) -> bool:
        """Convert ``true`` or ``false``, ``1`` or ``0``, ``yes`` or ``no``, in any case."""
        return self.check(self.words.get(text.lower()))

    def check(self, value: object) -> bool:
        """Return a boolean; see `Rule`."""
        if isinstance(value, bool):
            return value
        raise ValueError("must be true or false")


class Text(Rule[str]):
    """A string that is not empty, such as a path or an endpoint."""

    def check(self, value: object) -> str:
        """Return a string that is not empty and has no NUL character; see `Rule`."""
        if not isinstance(value, str):
            raise ValueError("must be a string")
        if not value:
            raise ValueError("must not be empty")
        if "\0" in value:
            raise ValueError("must not contain a NUL character")
        return value


class Texts(Rule[tuple[str, ...]]):
    """One `Text` or several. In an option or a variable, white space separates them.

    :param least: how many there must be.
    """

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def parse(self, text: str) -> tuple[str, ...]:
        """Split a text at white space; see `Rule`."""
        return self.check(text.split())

    def check(self, value: object) -> tuple[str, ...]:
        """Return a string, or a list of strings, as a tuple; see `Rule`."""
        if isinstance(value, str):
            value = (value,)
        if (
            isinstance(value, (list, tuple))
            and len(value) >= self.least
            and all(isinstance(v, str) for v in value)
        ):
            return tuple(Text().check(one) for one in value)
        least = f" of at least {'one' if self.least == 1 else self.least}" if self.least else ""
        raise ValueError(f"must be a string, or a list{least}")


class Setting(NamedTuple):
    """A setting, and the names under which its value is searched for.

    :ivar key: its name in a file, and that of the option without the two hyphens.
    :ivar rule: converts and checks the value.
    :ivar variable: the name of the environment variable.
    :ivar default: the value if no source has one.
    :ivar otherwise: what is used if there is no value at all, in words; may be empty.
    :ivar table_only: whether the value is a table or a list of tables, which only a file can have:
        there is no option, and the variable is empty. The rule's ``check`` takes a value of TOML,
        or one that it has returned; its ``ValueError`` begins with the dotted key below the
        daemon's table: ``rules[0].action "x": must be …``.
    """

    key: str
    rule: Rule[Any]
    variable: str
    default: object = None
    otherwise: str = ""
    table_only: bool = False

    @property
    def field(self) -> str:
        """The name of the attribute that holds the value."""
        return self.key.replace("-", "_")

    @property
    def option(self) -> str:
        """The option of the command line; the key, if there is none."""
        return self.key if self.table_only else f"--{self.key}"


class Table(NamedTuple):
    """A table of a TOML file.

    :ivar path: the path of the file; empty for a table within a value, whose setting names the
        file.
    :ivar name: the name of the table; empty for the keys at the top of the file.
    :ivar values: its keys and their values.
    """

    path: str
    name: str
    values: Mapping[str, object]

    def place(self, key: str) -> str:
        """Return the file and the dotted path of a key, for messages and `Source`."""
        dotted = f"{self.name}.{key}" if self.name else key
        return f"{self.path}: {dotted}" if self.path else dotted


class Found(NamedTuple):
    """The value of a setting, and its source.

    :ivar value: checked by the setting's rule.
    :ivar source: where it comes from.
    """

    value: object
    source: Source


def resolve(
    settings: Sequence[Setting],
    options: Mapping[str, object],
    environment: Mapping[str, str],
    table: Table | None,
    known: Collection[str] = (),
) -> dict[str, Found]:
    """Return the value of each setting by the name of its field.

    Every value of the file is checked, even if an option or a variable overrides it. A variable
    is ignored if the option is set, or if the variable is empty.

    :param environment: the environment variables by name.
    :param table: the keys and values of the file; ``None`` without a file.
    :param options: values by the settings' keys. Text is parsed, other values are checked. A
        `Found` also has the source to report; the source of any other value is the option.
    :param known: keys that the table may have; by default, those of the settings.
    :raises SettingError: with a message for each value and key that is wrong.
    """
    wrong: list[str] = []
    found: dict[str, Found] = {}
    for setting in settings:
        result = Found(setting.default, DEFAULT)
        candidates = []
        if table is not None and setting.key in table.values:
            place = table.place(setting.key)
            candidates.append(Found(table.values[setting.key], Source(FILE, place)))
        if setting.key in options:
            candidates.append(_option(setting, options[setting.key]))
        elif setting.variable and (text := environment.get(setting.variable)):
            candidates.append(Found(text, Source(ENVIRONMENT, setting.variable)))
        for value, source in candidates:
            try:
                result = Found(_value(setting.rule, value, source), source)
            except ValueError as error:
                wrong.append(wrong_value(setting, value, source, error))
        found[setting.field] = result
    if table is not None:
        wrong.extend(unknown_keys(table, known or [setting.key for setting in settings]))
    if wrong:
        raise SettingError(*wrong)
    return found


def wrong_value(setting: Setting, value: object, source: Source, error: ValueError) -> str:
    """Return the message for a value that a rule refuses: where it is, the value, and the reason.

    :param error: of the rule.
    """
    if setting.table_only:
        # The rule names what is wrong inside the value.
        return f"{source.label.removesuffix(setting.key)}{error}" if source.name else str(error)
    shown = to_toml(value) if source.kind == FILE else value
    if setting.rule.secret:
        shown = SECRET
    if isinstance(shown, list):
        # The values of an option that is repeated.
        shown = " ".join(map(str, shown))
    shown = shortened(str(shown))
    label = setting.option if source == DEFAULT else source.label
    return f"{label} {shown}: {error}"


def shortened(text: str) -> str:
    """Return the text of a value for a message: at most `LONGEST_SHOWN` characters of it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def unknown_keys(table: Table, known: Collection[str]) -> Iterator[str]:
    """Yield a message for each key of a table that is not known, with the nearest known one."""
    for key in table.values:
        if key not in known:
            yield f"{table.place(key)}: unknown key; {_suggestion(table, key, known)}"


def one_line(text: str) -> str:
    """Return a text with escapes for characters that are not printable, such as a line feed."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _option(setting: Setting, value: object) -> Found:
    return value if isinstance(value, Found) else Found(value, Source(OPTION, setting.option))


def _value(rule: Rule[Any], value: object, source: Source) -> object:
    if source.kind != FILE and isinstance(value, str):
        return rule.parse(value)
    return rule.check(value)


def _suggestion(table: Table, key: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    # A key of a file may be very long; comparing it would take too much time.
    near = get_close_matches(key[:100].lower().replace("_", "-"), list(known), 1)
    if near:
        path = f"{table.name}.{near[0]}" if table.name else near[0]
        return f"did you mean {path}?"
    return f"known are {', '.join(sorted(known))}"
