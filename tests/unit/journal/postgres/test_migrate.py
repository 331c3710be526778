"""The migrations of the package."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.postgres.migrate import migrations, newest


class MigrationTests(SynchronousTestCase):
    def test_numbers_have_no_hole(self) -> None:
        self.assertEqual(list(migrations()), list(range(1, newest() + 1)))

    def test_each_has_statements(self) -> None:
        for number, statements in migrations().items():
            self.assertIn(";", statements, number)
