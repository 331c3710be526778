"""What holds for every target."""

from __future__ import annotations

from unicodedata import category

_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def is_safe(text: str) -> bool:
    """Return whether a text is one line that neither controls a terminal nor hides anything."""
    return text.isprintable() or not any(category(one) in _UNSAFE for one in text)
