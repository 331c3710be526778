"""Messages about the database, without one."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.postgres.connection import reason, unreachable

AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


class MessageTests(SynchronousTestCase):
    def message(self, text: str) -> str:
        return unreachable(reason(Exception(AT + text)))

    def test_wrong_password_is_not_a_server_that_is_away(self) -> None:
        self.assertEqual(
            self.message('FATAL:  password authentication failed for user "edge"'),
            'PostgreSQL refused the connection: password authentication failed for user "edge"',
        )

    def test_missing_password_names_where_it_is_read_from(self) -> None:
        message = self.message("fe_sendauth: no password supplied")
        self.assertIn("refused", message)
        self.assertIn("$PGPASSWORD", message)

    def test_refused_connection_without_the_question_of_libpq(self) -> None:
        self.assertEqual(
            self.message("Connection refused\n\tIs the server running on that host?\n"),
            f"PostgreSQL is away: {AT}Connection refused",
        )
