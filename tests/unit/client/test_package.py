"""The names of `natproxy.client`, which are imported when they are used."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy import client
from natproxy.client import errors, session


class PackageTests(SynchronousTestCase):
    def test_every_name_can_be_imported(self) -> None:
        for name in client.__all__:
            self.assertTrue(hasattr(client, name), name)

    def test_names_are_those_of_their_modules(self) -> None:
        self.assertIs(client.NoDaemon, errors.NoDaemon)
        self.assertIs(client.InvalidQuery, errors.InvalidQuery)
        self.assertIs(client.connect, session.connect)

    def test_names_are_listed_before_they_are_imported(self) -> None:
        vars(client).pop("connect", None)
        self.assertIn("connect", dir(client))
        self.assertIs(client.connect, session.connect)

    def test_unknown_name_is_an_error_of_an_attribute(self) -> None:
        with self.assertRaisesRegex(AttributeError, "'natproxy.client' has no attribute 'connekt'"):
            _ = client.connekt  # type: ignore[attr-defined]
