"""``natproxy reconcile`` against the control socket of a daemon."""

from __future__ import annotations

import json
from typing import Any

from tests.support.control_server import document
from tests.support.observed_daemon import ObservedCase

SAME = {
    "result": "same",
    "reason": None,
    "rows": 3,
    "sockets": 3,
    "left_out": 0,
    "differences": 0,
    "rows_without_socket": [],
    "sockets_without_row": [],
}
ROUTE = {"nat": "10.0.0.1", "nat_port": 50000, "upstream": "10.0.0.9", "upstream_port": 9001}


class ReconcileTests(ObservedCase):
    def replies(self, **members: Any) -> None:
        found = {**SAME, **members}
        self.daemon._reconcile = lambda request: document(found)

    def test_no_differences(self) -> None:
        self.replies()
        self.assertEqual(self.out("reconcile"), ["entries: 3, sockets: 3, differences: 0"])

    def test_differences_are_listed_and_a_status(self) -> None:
        self.replies(
            result="differs",
            differences=5,
            left_out=2,
            rows_without_socket=[{"serial": 7, **ROUTE}],
            sockets_without_row=[{**ROUTE, "nat_port": 50001}],
        )
        self.assertEqual(
            self.out("reconcile", status=1),
            [
                "entry 7 has no socket: 10.0.0.1 port 50000 to 10.0.0.9 port 9001",
                "socket has no entry: 10.0.0.1 port 50001 to 10.0.0.9 port 9001",
                "and 3 more",
                "entries: 3, sockets: 3, differences: 5; entries of UNIX sockets, left out: 2",
            ],
        )

    def test_unknown_is_neither(self) -> None:
        self.replies(result="unknown", differences=None, reason="the kernel hides \x1b[31m them")
        found, out, err = self.main("reconcile")
        self.assertEqual((found, out), (10, b""))
        self.assertIn("natproxy: unknown: the kernel hides", err)
        self.assertNotIn("\x1b", err)

    def test_json(self) -> None:
        self.replies(result="differs", differences=1)
        (line,) = self.out("reconcile", "--json", status=1)
        self.assertEqual(json.loads(line), {**SAME, "result": "differs", "differences": 1})

    def test_reply_that_is_not_understood(self) -> None:
        self.replies(result="perhaps")
        self.assert_fails(6, "no result", "reconcile")

    def test_daemon_without_a_table(self) -> None:
        self.assert_fails(1, "it is a file server", "reconcile")
