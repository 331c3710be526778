"""Two processes that claim the same partial file."""

from __future__ import annotations

import subprocess
import sys

from natproxy.client import LocalError
from tests.support.partials import PartialCase
from tests.support.paths import ROOT


class ProcessTests(PartialCase):
    def test_claim_lasts_as_long_as_its_process(self) -> None:
        program = (
            "import sys\n"
            "from natproxy.client.transfer.partial import PartialDownload\n"
            "from natproxy.protocol import Metadata\n"
            "from natproxy.client.transfer.destination import LocalFile\n"
            "metadata = Metadata('file', 10, 0, 'e')\n"
            "p = PartialDownload(LocalFile(sys.argv[1].encode()), b'd/a', metadata)\n"
            "p.write(p.segments[0], memoryview(b'01234')); p.save()\n"
            "print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            (sys.executable, "-c", program, self.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as process:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            self.assertRaises(LocalError, self.open)
            process.kill()
            process.wait()
        self.assertEqual(self.open().kept, 5)
