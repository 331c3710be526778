"""The check of a journal finds what is wrong, and nothing else."""

from __future__ import annotations

from pathlib import Path

from natproxy.journal.search import Journal
from natproxy.journal.verify import Check
from tests.support.journal_runs import SECOND, RunsCase, query

PORT = 50_000


class VerifyTests(RunsCase):
    def setUp(self) -> None:
        super().setUp()
        self.daemon.start()
        for _ in range(3):
            self.daemon.register(PORT)
            self.daemon.wait(SECOND)
            self.daemon.remove(self.daemon.register(PORT + 1))
            self.daemon.seal()
        self.daemon.flush()

    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.segment"))

    def verify(self) -> list[Check]:
        with Journal(str(self.directory)) as journal:
            return list(journal.verify())

    def problems(self) -> list[str]:
        return [problem for check in self.verify() for problem in check.problems]

    def test_sound_journal_has_no_problems(self) -> None:
        self.assertEqual(
            self.verify(),
            [
                Check(path.name, rows, ())
                for path, rows in zip(self.segments(), (1, 1, 1, 3), strict=True)
            ],
        )

    def test_damaged_and_missing_segments_are_named(self) -> None:
        first, second, third, _ = self.segments()
        second.unlink()
        third.write_bytes(b"x" * 4096)
        checks = {check.segment: check.problems for check in self.verify()}
        self.assertEqual(checks[first.name], ())
        self.assertIn("does not exist", checks[second.name][0])
        self.assertIn("file is not a database", checks[third.name][0])

    def test_missing_part_is_found_without_a_catalogue(self) -> None:
        self.segments()[1].unlink()
        (self.directory / "catalogue.sqlite").unlink()
        self.assertEqual(self.problems(), ["part 2 of its boot is missing before it"])

    def test_wrong_content_is_found(self) -> None:
        for statement, problem in (
            ("update entries set ended = started - 1000000", "1 entries end before they start"),
            ("update entries set outcome = null", "an end, but no outcome"),
            ("drop index by_port", "its index is missing"),
            ("update entries set client = 999", "refer to no client"),
        ):
            query(str(self.segments()[0]), statement)
            self.assertTrue(any(problem in found for found in self.problems()), statement)

    def test_truncated_segment_is_found(self) -> None:
        path = self.segments()[0]
        path.write_bytes(path.read_bytes()[:9000])
        self.assertTrue(self.problems())
