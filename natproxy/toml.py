"""TOML files of settings: read, and written for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from natproxy.extras import missing
from natproxy.settings import Found, Setting, SettingError, one_line
from natproxy.toml_values import key_to_toml, to_toml

LARGEST = 1 << 20
"""Bytes of a file at most: a device such as ``/dev/zero`` has no end."""


def read_toml(path: str, directory: str = "") -> dict[str, Any]:
    """Return the content of a TOML file.

    A byte order mark is ignored; some editors write one.

    :param path: as messages have it.
    :param directory: what a relative path is relative to; the working directory by default.
    :raises SettingError: if it cannot be read or parsed, or is larger than `LARGEST`.
    """
    if not path:
        raise SettingError("--config: must name a file")
    try:
        with open(os.path.join(directory, path), "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        # The path has a NUL.
        raise SettingError(f"{path}: {error}") from error
    if len(content) > LARGEST:
        raise SettingError(f"{path}: not a file of settings: larger than {LARGEST} bytes")
    loads = _toml_parser(path)
    try:
        return loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingError(f"{path}: not a TOML file: not UTF-8 (at line {line})") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: not a TOML file: {error}") from error


def format_settings(
    settings: Iterable[Setting], found: Mapping[str, Found], table: str = ""
) -> str:
    """Return the effective settings as a TOML table, each with its source in a comment.

    Values that are tables, or lists of tables, follow as tables of their own.

    :param found: their values by the names of their fields.
    :param table: its name; empty for the top of a file.
    """
    lines = []
    subtables: list[str] = []
    for setting in settings:
        value, source = found[setting.field]
        plain = None if value is None else setting.rule.plain(value)
        if _is_table(plain) or _is_tables(plain):
            name = f"{table}.{setting.key}" if table else setting.key
            subtables += ["", f"# {one_line(str(source))}", *_table_lines(name, plain)]
        elif value is None:
            otherwise = f": {setting.otherwise}" if setting.otherwise else ""
            lines.append((f"# {setting.key}", f"not set{otherwise}"))
        else:
            lines.append((f"{setting.key} = {setting.rule.show(value)}", one_line(str(source))))
    width = max(len(text) for text, _ in lines)
    heading = [f"[{table}]"] if table else []
    shown = [f"{text:{width}}  # {source}" for text, source in lines]
    return "".join(f"{line}\n" for line in [*heading, *shown, *subtables])


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _is_tables(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_table, value))


def _table_lines(name: str, value: Any) -> Iterator[str]:
    """Yield the lines of a table, or of a list of tables, with the tables inside of them.

    :param name: its dotted name.
    """
    if _is_tables(value):
        for one in value:
            yield f"[[{name}]]"
            yield from _entry_lines(name, one)
    else:
        yield f"[{name}]"
        yield from _entry_lines(name, value)


def _entry_lines(name: str, table: Mapping[str, object]) -> Iterator[str]:
    inner = {key for key, value in table.items() if _is_table(value) or _is_tables(value)}
    for key, value in table.items():
        if key not in inner:
            yield f"{key_to_toml(key)} = {to_toml(value)}"
    for key in table:
        if key in inner:
            yield from _table_lines(f"{name}.{key_to_toml(key)}", table[key])


def _toml_parser(path: str) -> Callable[[str], dict[str, Any]]:
    try:
        if sys.version_info >= (3, 11):
            from tomllib import loads
        else:
            from tomli import loads
    except ImportError:
        raise SettingError(missing(f"{path}: TOML on Python 3.10", "tomli", "config")) from None
    return loads
