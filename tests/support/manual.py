"""The manual page, section by section."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGE = ROOT / "man" / "natproxy.1"
TEXT = PAGE.read_text()


def section(title: str) -> str:
    """Return the text of a section."""
    found = re.search(rf"^\.Sh {title}\n(.*?)(?=^\.Sh|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]
