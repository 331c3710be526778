"""The message for an optional package names the extra that has it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy import extras
from natproxy.daemon.doctor.features import EXTRAS
from tests.support.paths import ROOT


def messages() -> list[tuple[Path, str]]:
    """Return the extras that calls of `missing` name, with the modules."""
    found = []
    for path in (ROOT / "natproxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing":
                extra = node.args[2]
                assert isinstance(extra, ast.Constant), path
                found.append((path, str(extra.value)))
    return found


class ExtrasTests(SynchronousTestCase):
    def test_message(self) -> None:
        self.assertEqual(extras.TLS, "TLS needs pyOpenSSL: pip install 'natproxy[tls]'")

    def test_each_extra_is_named_by_what_needs_it(self) -> None:
        self.assertEqual({extra for _, extra in messages()}, set(EXTRAS))

    def test_no_module_has_wording_of_its_own(self) -> None:
        for path in (ROOT / "natproxy").rglob("*.py"):
            if path.name != "extras.py":
                self.assertNotRegex(path.read_text(), re.escape("natproxy[") + r"[a-z]")
