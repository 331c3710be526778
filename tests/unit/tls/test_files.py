"""Files of certificates and keys: what is wrong with them is one line with their name."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.tls.files import CertificateError, check_authorities, check_pair
from tests.support.certificates import Authority, key_pem


class FilesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.directory)
        self.pair = self.authority.issue("server.example")

    def write(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def wrong(self, function: object, *arguments: str) -> str:
        assert callable(function)
        text = str(self.assertRaises(CertificateError, function, *arguments))
        self.assertEqual(text.splitlines(), [text])
        return text


class AuthoritiesTests(FilesCase):
    def test_file_or_directory(self) -> None:
        ca = self.authority.ca
        self.assertEqual(check_authorities(ca), [ca])
        inner = self.directory / "roots"
        inner.mkdir()
        os.link(ca, inner / "b.pem")
        os.link(ca, inner / "a.pem")
        (inner / "README").write_text("no certificate")
        found = check_authorities(str(inner))
        self.assertEqual(found, [str(inner / "a.pem"), str(inner / "b.pem")])

    def test_what_is_wrong(self) -> None:
        missing = str(self.directory / "missing.pem")
        self.assertEqual(
            self.wrong(check_authorities, missing), f"{missing}: No such file or directory"
        )
        self.assertEqual(
            self.wrong(check_authorities, self.pair.key),
            f"{self.pair.key}: contains no certificate in PEM form",
        )
        empty = self.directory / "empty"
        empty.mkdir()
        self.assertEqual(
            self.wrong(check_authorities, str(empty)),
            f"{empty}: the directory has no file that ends with .pem",
        )

    def test_pipe_does_not_block(self) -> None:
        path = str(self.directory / "pipe")
        os.mkfifo(path)
        self.assertIn("contains no certificate", self.wrong(check_authorities, path))


class PairTests(FilesCase):
    def test_pair_in_two_files_or_in_one(self) -> None:
        cert, key = self.pair
        check_pair(cert, key)
        both = self.write("both.pem", Path(cert).read_bytes() + Path(key).read_bytes())
        check_pair(both, both)

    def test_swapped(self) -> None:
        cert, key = self.pair
        self.assertEqual(
            self.wrong(check_pair, key, cert),
            f"{key} is a private key, and {cert} a certificate: they are swapped",
        )
        self.assertEqual(
            self.wrong(check_pair, key, key), f"{key}: contains a private key and no certificate"
        )
        self.assertEqual(
            self.wrong(check_pair, cert, cert), f"{cert}: contains no private key in PEM form"
        )

    def test_encrypted_key(self) -> None:
        _, key = self.authority.certificate(common="a")
        path = self.write("encrypted.pem", key_pem(key, b"secret"))
        self.assertEqual(
            self.wrong(check_pair, self.pair.cert, path),
            f"{path}: the private key is encrypted; write it without a passphrase (openssl pkey)",
        )

    def test_garbage_and_missing_files(self) -> None:
        garbage = self.write("garbage.pem", b"\x00\xff" * 1000)
        missing = str(self.directory / "missing.pem")
        for cert, key in ((garbage, self.pair.key), (self.pair.cert, garbage)):
            self.assertTrue(self.wrong(check_pair, cert, key).startswith(f"{garbage}: contains no"))
        for cert, key in ((missing, self.pair.key), (self.pair.cert, missing)):
            text = self.wrong(check_pair, cert, key)
            self.assertEqual(text, f"{missing}: No such file or directory")
