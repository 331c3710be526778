"""The texts of upstream connections that were lost."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.proxy.failure import explain_loss
from natproxy.tls.reasons import untrusted


class LossTests(SynchronousTestCase):
    def test_only_an_empty_response_can_be_that_of_version_1(self) -> None:
        for error in (ConnectionDone(), ConnectionLost()):
            empty = explain_loss(Failure(error), unverified=False, begun=False)
            self.assertEqual(empty, "empty response from server")
            begun = explain_loss(Failure(error), unverified=False, begun=True)
            self.assertEqual(
                begun, "proxy error: the server closed the connection inside its reply"
            )

    def test_loss_in_the_handshake_and_a_refusal_have_the_reason(self) -> None:
        from natproxy.tls.openssl import Refused

        text = explain_loss(Failure(ConnectionLost()), unverified=True, begun=False)
        self.assertIn("no TLS with the server: it closed the connection in the handshake", text)
        refused = Refused(untrusted(10, "?"))
        for begun in (False, True):
            text = explain_loss(Failure(refused), unverified=True, begun=begun)
            self.assertEqual(
                text, f"proxy error: there is no TLS with the server: {refused.reason}"
            )
