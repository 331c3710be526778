"""The token of a file system: whose it is, and where it does not appear."""

from __future__ import annotations

import os
import pickle
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client.authentication import Token
from natproxy.client.errors import Unauthorized
from natproxy.fs import NatproxyFileSystem
from natproxy.fs.errors import os_error
from natproxy.fs.url import token_for

SERVER = Address("files.example", 9000)


class TokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.environment = {"NATPROXY_TOKEN": "s3cret", "NATPROXY_SERVER": str(SERVER)}
        kept = {name: text for name, text in os.environ.items() if not name.startswith("NATPROXY")}
        patch = mock.patch.dict(os.environ, kept, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def test_that_of_the_environment_is_for_its_server_alone(self) -> None:
        with mock.patch.dict(os.environ, self.environment):
            self.assertEqual(token_for(SERVER, None, False), Token("s3cret"))
            self.assertIsNone(token_for(Address("other.example", 9000), None, False))
            self.assertIsNone(token_for(Address("files.example", 9001), None, False))
            self.assertEqual(token_for(SERVER, "mine", True), Token("mine", True))
        with mock.patch.dict(os.environ, {"NATPROXY_TOKEN": "s3cret"}):
            self.assertIsNone(token_for(SERVER, None, False))

    def test_malformed_token_is_not_shown(self) -> None:
        with self.assertRaises(ValueError) as caught:
            NatproxyFileSystem("h", token="s3cret x")
        self.assertNotIn("s3cret", str(caught.exception))

    def test_it_is_in_no_url_no_representation_no_pickle_and_no_json(self) -> None:
        system = NatproxyFileSystem("h", 9000, token="s3cret", skip_instance_cache=True)
        for text in (
            repr(system),
            str(system),
            system.fsid,
            system.unstrip_protocol("/a"),
            system.to_json(),
            str(system.to_dict()),
            repr(pickle.dumps(system)),
            repr(pickle.dumps(system.session.server)),
        ):
            self.assertNotIn("s3cret", text)

    def test_copy_has_the_token_of_its_own_environment(self) -> None:
        system = NatproxyFileSystem(*SERVER, token="mine", skip_instance_cache=True)
        pickled = pickle.dumps(system)
        NatproxyFileSystem.clear_instance_cache()
        self.assertIsNone(pickle.loads(pickled)._commands._token)
        NatproxyFileSystem.clear_instance_cache()
        with mock.patch.dict(os.environ, self.environment):
            self.assertEqual(pickle.loads(pickled)._commands._token, Token("s3cret"))
        NatproxyFileSystem.clear_instance_cache()

    def test_refused_token_is_a_permission_error(self) -> None:
        error = os_error(Unauthorized("h:1: the token is not accepted"), "/a")
        self.assertIsInstance(error, PermissionError)
        self.assertIn("h:1: the token is not accepted", str(error))
