"""The lines of a daemon's status."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.status import status_lines


class AccessLogTests(SynchronousTestCase):
    def lines(self, access: object) -> list[str]:
        lines = status_lines({"kind": "fileserver", "access_log": access})
        return [line for line in lines if line.startswith("access log:")]

    def test_path_and_what_is_wrong(self) -> None:
        access = {"path": "/var/log/a", "lost": 0, "error": None}
        self.assertEqual(self.lines(access), ["access log: /var/log/a"])
        self.assertEqual(
            self.lines({**access, "lost": 1234, "error": "No space left on device"}),
            ["access log: /var/log/a, 1,234 lines lost, No space left on device"],
        )

    def test_daemon_without_one(self) -> None:
        self.assertEqual((self.lines(None), self.lines("?")), ([], []))
