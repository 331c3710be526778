"""Values as TOML text, for messages and reports; see `natproxy.toml` for files.

The command line imports this module when it starts, so this module imports nothing that is slow to
import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LONGEST_DECIMAL = 4096
"""Bits of an integer that is shown in decimal: Python refuses to convert much longer ones."""


def to_toml(value: object) -> str:
    """Return a value as it is written in a TOML file, for messages and reports.

    ``None`` becomes ``none``, which is not TOML.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > LONGEST_DECIMAL:
        return hex(value)
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        from json import dumps

        # `dumps` escapes neither DEL, which TOML requires, nor the surrogates that stand for
        # bytes of file names that are not UTF-8.
        return re.sub(
            "[\x7f\ud800-\udfff]",
            lambda match: f"\\u{ord(match[0]):04x}",
            dumps(value, ensure_ascii=False),
        )
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(to_toml(one) for one in value)}]"
    if isinstance(value, Mapping):
        inner = (f"{key_to_toml(str(key))} = {to_toml(one)}" for key, one in value.items())
        return f"{{{', '.join(inner)}}}"
    return str(value)


def key_to_toml(key: str) -> str:
    """Return a key as it is written in a TOML file: in quotes only if it needs them."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else to_toml(key)
