"""Which deletions in a mirror are refused."""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.deletion import ExtraPath, deletion_refusal


class RefusalTests(SynchronousTestCase):
    def refusal(
        self, files: int, held: int, source: int, most: float | None = None, directories: int = 0
    ) -> str | None:
        extra = [ExtraPath(b"d%d" % number, True) for number in range(directories)]
        extra += [ExtraPath(b"%d" % number, False) for number in range(files)]
        refusal = deletion_refusal(extra, held, source, most)
        return None if refusal is None else str(refusal)

    def test_empty_source_deletes_nothing(self) -> None:
        self.assertEqual(
            self.refusal(5000, 5000, 0, directories=1),
            "nothing deleted: 5000 of 5000 files here and 1 directory would be, and the server"
            " lists no files; --max-delete 5001 allows it",
        )
        for files, held, directories in ((1, 1, 0), (1, 100, 0), (0, 0, 2)):
            self.assertIsNotNone(self.refusal(files, held, 0, directories=directories))

    def test_more_than_half_of_a_large_mirror_is_refused(self) -> None:
        self.assertEqual(
            self.refusal(6, 11, 5),
            "nothing deleted: 6 of 11 files here would be, and that is more than half;"
            " --max-delete 6 allows it",
        )
        for files, held in ((5, 11), (6, 12), (10, 10), (1, 1)):
            self.assertIsNone(self.refusal(files, held, 1))

    def test_directories_count_for_an_explicit_limit_only(self) -> None:
        self.assertIsNone(self.refusal(5, 11, 6, directories=100))
        self.assertIn(
            "which is more than --max-delete 104 allows",
            str(self.refusal(5, 11, 6, 104, directories=100)),
        )
        self.assertIsNone(self.refusal(5, 11, 6, 105, directories=100))

    def test_explicit_limit_replaces_the_defaults(self) -> None:
        for most in (5000, 5001, math.inf):
            self.assertIsNone(self.refusal(5000, 5000, 0, most))
        for files, held in ((1, 100), (6, 11)):
            self.assertIsNotNone(self.refusal(files, held, 50, 0))

    def test_no_deletions_are_never_refused(self) -> None:
        for most in (None, 0, math.inf):
            self.assertIsNone(self.refusal(0, 0, 0, most))
