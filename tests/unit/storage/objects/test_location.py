"""``s3://BUCKET/PREFIX``, and URLs of services."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.storage.objects.location import (
    Location,
    check_endpoint,
    is_location,
    parse_location,
)


class LocationTests(SynchronousTestCase):
    def test_bucket_and_prefix(self) -> None:
        for text, bucket, prefix in (
            ("s3://b", "b", ""),
            ("s3://b/", "b", ""),
            ("s3://b/p", "b", "p/"),
            ("s3://b/p/q/", "b", "p/q/"),
        ):
            self.assertEqual(parse_location(text, "e"), Location(bucket, prefix, "e"))
            self.assertTrue(is_location(text))
        self.assertFalse(is_location("s3/b"))
        self.assertEqual(str(Location("b", "p/q/")), "s3://b/p/q")

    def test_what_names_nothing(self) -> None:
        for text in ("s3://", "s3:///p", "b/p", "s3://key:secret@b/p", "s3://-b"):
            with self.assertRaisesRegex(ValueError, "must be s3://BUCKET"):
                parse_location(text)
        for text in ("s3://b//", "s3://b/p//q", "s3://b/../p", "s3://b/."):
            with self.assertRaisesRegex(ValueError, "must have a prefix without"):
                parse_location(text)
        with self.assertRaisesRegex(ValueError, "directory bucket"):
            parse_location("s3://b--use1-az4--x-s3/p")

    def test_endpoint(self) -> None:
        for text in ("http://127.0.0.1:8333", "https://s3.example/path"):
            self.assertEqual(check_endpoint(text), text)
        for text in ("127.0.0.1:8333", "ftp://a", "http://", "http://a?b", "http://a#b"):
            with self.assertRaisesRegex(ValueError, "must be a URL"):
                check_endpoint(text)
        with self.assertRaisesRegex(ValueError, "must not contain a user") as raised:
            check_endpoint("http://key:secret@a")
        self.assertNotIn("secret", str(raised.exception))
