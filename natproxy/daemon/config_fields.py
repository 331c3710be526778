"""Fields of a config that are settings: what each states, and the names that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from natproxy.settings import Rule, Setting


def setting(
    default: object,
    rule: Rule[Any],
    summary: str,
    reloadable: bool = True,
    shown: str = "",
    table_only: bool = False,
) -> Any:
    """Return a field of a config.

    :param rule: what the value must be.
    :param summary: the help text of the option.
    :param reloadable: whether a reload may change the value while the daemon runs.
    :param shown: the default in words, if its value does not show it.
    :param table_only: whether only a file has the value, as of
        `natproxy.settings.Setting.table_only`.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "rule": rule,
            "summary": summary,
            "reloadable": reloadable,
            "shown": shown,
            "table_only": table_only,
        },
    )


def fields_of(
    config: type[Any], table_only: bool | None = None
) -> Iterator[dataclasses.Field[Any]]:
    """Yield the fields of a config that are settings, sorted by name.

    :param table_only: yield only those that only a file has, or only the others; all by default.
    """
    for one in sorted(dataclasses.fields(config), key=lambda one: one.name):
        if "rule" in one.metadata and table_only in (None, one.metadata["table_only"]):
            yield one


def settings_of(config: type[Any]) -> list[Setting]:
    """Return the settings of a config: key, rule, variable and default of each."""
    return [
        Setting(
            key_of(one.name),
            one.metadata["rule"],
            "" if one.metadata["table_only"] else variable_of(config, one.name),
            one.default,
            one.metadata["shown"].replace("`", ""),
            one.metadata["table_only"],
        )
        for one in fields_of(config)
    ]


def key_of(name: str) -> str:
    """Return the key of a field in a file; that of its option, without the hyphens before it."""
    return name.replace("_", "-")


def variable_of(config: type[Any], name: str) -> str:
    """Return the environment variable of a field, or of the option ``config``."""
    return f"NATPROXY_{config.table}_{name}".upper()
