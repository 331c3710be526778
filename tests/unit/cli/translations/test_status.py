"""The lines of a daemon's status."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.translations.status import status_lines
from tests.support.recorded_upstreams import two


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


class UpstreamsTests(SynchronousTestCase):
    def lines(self, members: object) -> list[str]:
        lines = status_lines({"kind": "proxy", "upstreams": members})
        return [line for line in lines if line.startswith("upstreams:")]

    def test_one_line(self) -> None:
        expected = "upstreams:  1 up, 1 down (files-b: connection refused), queue 0"
        self.assertEqual(self.lines(two().json()), [expected])
        record = two(mode="drain")
        record = record._replace(queue=record.queue._replace(length=1204))
        expected = "0 up, 1 down (files-b: connection refused), 1 draining (files-a), queue 1,204"
        self.assertEqual(self.lines(record.json()), [f"upstreams:  {expected}"])

    def test_maintenance_of_one_that_is_down(self) -> None:
        found = two()
        first, second = found.upstreams
        found = found._replace(upstreams=(first, second._replace(mode="maintenance")))
        expected = "upstreams:  1 up, 1 in maintenance (files-b), queue 0"
        self.assertEqual(self.lines(found.json()), [expected])

    def test_one_that_takes_commands_is_not_worth_a_line(self) -> None:
        one = two()._replace(upstreams=two().upstreams[:1])
        self.assertEqual(self.lines(one.json()), [])
        waiting = one._replace(queue=one.queue._replace(length=1))
        self.assertEqual(self.lines(waiting.json()), ["upstreams:  1 up, queue 1"])

    def test_malformed_members_are_not_shown(self) -> None:
        for members in (None, 1, [], {}, {"upstreams": 1, "queue": {}}, {"upstreams": [{}]}):
            self.assertEqual(self.lines(members), [], members)


class RetriesTests(SynchronousTestCase):
    def test_only_what_has_happened(self) -> None:
        retries = {"retried": 0, "interrupted": 2, "resumed": 1, "resumed_bytes": 7}
        for counts, expected in (
            (retries, ["retries:    2 interrupted, 1 resumed"]),
            # It has no port meanwhile, and is not in the table.
            ({**retries, "waiting": 1}, ["retries:    2 interrupted, 1 resumed, 1 waiting"]),
            (dict.fromkeys(retries, 0), []),
            ([], []),
        ):
            lines = status_lines({"kind": "proxy", "counters": {"retries": counts}})
            self.assertEqual([line for line in lines if line.startswith("retries:")], expected)
