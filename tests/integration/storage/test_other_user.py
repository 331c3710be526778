"""Directories of another user."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

from tests.support.storage import ServedCase

_AS_NOBODY = """
import json, math, os, sys
from natproxy.protocol import EntryLines
from natproxy.storage import LocalStorage
from tests.support.storage import page_of
page_of(LocalStorage(sys.argv[1]), b"", 1, b"", 1)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
lines = []
for name in (b"", b"sub"):
    paged = page_of(LocalStorage(sys.argv[1]), name, math.inf, b"", 1000)
    entries = EntryLines().feed(paged.body)
    shown = [[e.name.decode(), e.metadata.type, e.unread] for e in entries]
    lines.append([shown, paged.page.unread])
names = LocalStorage(sys.argv[1]).top_files().names
print(json.dumps(lines + [[name.decode() for name in names]]))
"""


class OtherUserTests(ServedCase):
    """The server runs as a user to whom the files do not belong."""

    def test_directory_of_mode_744(self) -> None:
        if os.geteuid():
            self.skipTest("needs root, to become another user")
        for path in (self.top, self.served):
            os.chmod(path, 0o755)
        os.chmod(self.path(b"sub"), 0o744)
        self.put(b"mine", b"")
        os.chmod(self.path(b"mine"), 0o600)
        ran = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, self.served], capture_output=True, check=False
        )
        self.assertEqual(ran.returncode, 0, ran.stderr)
        (top, top_unread), (below, below_unread), names = json.loads(ran.stdout)
        found = {name: (kind, unread) for name, kind, unread in top}
        self.assertEqual(found["sub"], ("dir", True))
        self.assertEqual(found["mine"], ("file", False))
        self.assertEqual([name for name in found if name.startswith("sub/")], [])
        # A link into it: what it leads to may well be there.
        links = [name for name in ("insub",) if name in found]
        self.assertEqual([found[name] for name in links], [("unread", False)] * len(links))
        self.assertEqual(top_unread, 1 + len(links))
        kinds = {kind for _, kind, _ in below}
        self.assertEqual((kinds, below_unread), ({"unread"}, len(below)))
        self.assertIn("sub/b.txt", [name for name, _, _ in below])
        self.assertEqual(stat.S_IMODE(os.stat(self.path(b"sub")).st_mode), 0o744)
        self.assertIn("a.txt", names)
