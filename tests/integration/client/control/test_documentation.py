"""The session of the control socket in ``docs/python.md`` prints what the page shows."""

from __future__ import annotations

import doctest
import re
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.control import finding
from tests.support.control_server import ControlServer
from tests.support.observed_daemon import FakeDaemon, entry
from tests.support.paths import ROOT

PAGE = ROOT / "docs/python.md"


class DocumentationTests(SynchronousTestCase):
    def test_session_is_as_the_page_shows(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        self.patch(finding, "socket_candidates", lambda environ, uid: [str(directory)])
        daemon = FakeDaemon()
        daemon.table = [entry(1), entry(2)]
        server = ControlServer(directory / "proxy-9000.sock", daemon.reply)
        self.addCleanup(server.close)
        section = PAGE.read_text().partition("\n## The control socket\n")[2].partition("\n## ")[0]
        (session,) = re.findall(r"```pycon\n(.*?)```", section, re.DOTALL)
        example = doctest.DocTestParser().get_doctest(session, {}, PAGE.name, str(PAGE), 0)
        output: list[str] = []
        runner = doctest.DocTestRunner()
        runner.run(example, out=output.append)
        self.assertEqual((runner.failures, runner.tries), (0, 6), "".join(output))
