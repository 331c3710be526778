"""Reasons of OpenSSL as texts for people."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.tls.reasons import (
    advise,
    client_refusal,
    misnamed,
    refusal,
    untrusted,
    untrusted_client,
)


class RefusalTests(SynchronousTestCase):
    def test_both_spellings_of_an_alert_are_one_text(self) -> None:
        for upper, lower, text in (
            ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "tlsv13 alert certificate required", "requires"),
            ("TLSV1_ALERT_UNKNOWN_CA", "tlsv1 alert unknown ca", "does not trust the authority"),
            ("SSLV3_ALERT_BAD_CERTIFICATE", "ssl/tls alert bad certificate", "(bad certificate)"),
            ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "ssl/tls alert certificate expired", "expired"),
            ("TLSV1_ALERT_PROTOCOL_VERSION", "tlsv1 alert protocol version", "TLS 1.2 or newer"),
            ("WRONG_VERSION_NUMBER", "wrong version number", "does not speak TLS"),
            ("UNSUPPORTED_PROTOCOL", "unsupported protocol", "TLS 1.2 or newer"),
        ):
            found = refusal(upper)
            assert found is not None
            self.assertEqual(found, refusal(lower))
            self.assertIn(text, found)

    def test_other_failures_may_be_temporary(self) -> None:
        for reason in ("", "UNEXPECTED_EOF_WHILE_READING", "tlsv1 alert internal error", "alert"):
            self.assertIsNone(refusal(reason))

    def test_advice_names_options_of_the_client(self) -> None:
        self.assertEqual(
            advise(untrusted(20, "")),
            "its certificate is not signed by a trusted authority (option ca)",
        )
        self.assertEqual(advise(untrusted(10, "")), "its certificate has expired")


class ClientRefusalTests(SynchronousTestCase):
    def test_reasons_are_those_of_a_server(self) -> None:
        for reason, text in (
            ("tlsv1 alert unknown ca", "it does not trust the authority of this server's"),
            ("TLSV1_ALERT_UNKNOWN_CA", "it does not trust the authority of this server's"),
            ("ssl/tls alert bad certificate", "it refused this server's certificate (bad cert"),
            ("peer did not return a certificate", "it showed no certificate"),
            ("no shared cipher", "it has no cipher in common"),
            ("unsupported protocol", "it does not offer TLS 1.2 or newer"),
            ("tlsv1 alert internal error", "it sent the alert internal error"),
            ("bad extension", "bad extension"),
            ("", "unknown reason"),
        ):
            self.assertTrue(client_refusal(reason).startswith(text), reason)

    def test_certificates_of_clients(self) -> None:
        self.assertEqual(untrusted_client(26, ""), "its certificate is not one for a client")
        self.assertEqual(untrusted_client(10, ""), untrusted(10, ""))


class CertificateTests(SynchronousTestCase):
    def test_reasons_of_the_verification(self) -> None:
        self.assertEqual(untrusted(10, "x"), "its certificate has expired")
        self.assertIn("trusted authority", untrusted(20, "x"))
        self.assertIn("self-signed", untrusted(18, "x"))
        # Blocking connections have a text for these, those on a reactor have none.
        for code in (7, 13, 14, 24, 25, 34, 47, 48, 79):
            self.assertEqual(untrusted(code, "x"), untrusted(code, f"error {code}"))
        self.assertEqual(untrusted(99, "odd"), "its certificate is not valid (odd)")
        self.assertEqual(misnamed("h"), "its certificate is not for the name h")
