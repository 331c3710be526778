"""Errors of TLS on a reactor."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from natproxy.tls.failure import refusal_of
from natproxy.tls.openssl import Refused


class RefusalTests(SynchronousTestCase):
    def test_errors_of_tls(self) -> None:
        self.assertEqual(refusal_of(Refused("the reason")), "the reason")
        old = SSL.Error([("SSL routines", "", "unsupported protocol")])
        self.assertEqual(refusal_of(old), "it does not offer TLS 1.2 or newer")

    def test_error_of_another_kind_is_no_refusal(self) -> None:
        for error in (None, OSError("wrong version number"), ValueError(), SSL.Error([])):
            self.assertIsNone(refusal_of(error))
