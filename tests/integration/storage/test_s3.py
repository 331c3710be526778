"""The client of S3 against replies that are written down: requests, checks, errors, credentials."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from unittest import mock

import botocore.loaders
import botocore.session
from twisted.trial.unittest import SynchronousTestCase

from natproxy.storage import NotFound
from natproxy.storage.objects import s3
from natproxy.storage.objects.client import EmptyObject, ObjectChanged, StoreError
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.s3 import MissingLibrary, S3Client
from tests.support.played_s3 import PlayedS3, Reply, failure

LOADER = botocore.loaders.create_loader()
SECRET = "a-secret-that-nothing-shows"
KEY = "AKIAEXAMPLEOFTESTS"
PART = {"Content_Range": "bytes 2-4/10"}


class S3Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = PlayedS3()
        self.addCleanup(self.server.close)
        variables = {name: value for name, value in os.environ.items() if "AWS_" not in name}
        variables.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        variables.update(AWS_EC2_METADATA_DISABLED="true", HOME=tempfile.gettempdir())
        environment = mock.patch.dict(os.environ, variables, clear=True)
        environment.start()
        self.addCleanup(environment.stop)
        self.patch(s3, "ATTEMPTS", 1)
        # It reads large files, once.
        self.patch(botocore.session, "create_loader", lambda _: LOADER)
        self.client = self.new_client()

    def new_client(self) -> S3Client:
        return S3Client(Location("b", "", self.server.endpoint))

    def error_of(self, *replies: Reply) -> str:
        """Return the text of the error with which a request ends."""
        self.server.play(*replies)
        with self.assertRaises(StoreError) as raised:
            self.client.head("a")
        for secret in (SECRET, KEY, "Signature"):
            self.assertNotIn(secret, str(raised.exception))
            self.assertNotIn(secret, repr(raised.exception.__cause__))
        return str(raised.exception)


class RequestTests(S3Case):
    def test_head(self) -> None:
        self.server.play(Reply(length=7))
        info = self.client.head("a b/ü")
        self.assertEqual(info, (7, 1_500_000_000_000_000_000, "0123456789abcdef", None))
        method, path, headers = self.server.requests[0]
        self.assertEqual((method, path), ("HEAD", "/b/a%20b/%C3%BC"))
        self.assertNotIn("x-amz-checksum-mode", map(str.lower, headers))

    def test_range(self) -> None:
        self.server.play(Reply(206, b"cde", **PART))
        body = self.client.get("a", 2, 5, "0123456789abcdef")
        self.assertEqual((body.info.size, body.read(2), body.read(9)), (10, b"cd", b"e"))
        self.assertEqual(body.read(1), b"")
        body.close()
        headers = self.server.requests[0][2]
        self.assertEqual(headers["Range"], "bytes=2-4")
        self.assertEqual(headers["If-Match"], '"0123456789abcdef"')

    def test_end_of_an_object(self) -> None:
        self.server.play(Reply(206, b"j", Content_Range="bytes 9-9/10"))
        self.assertEqual(self.client.get("a", 9, 100).info.size, 10)
        self.server.play(Reply(200, b"whole"))
        self.assertEqual(self.client.get("a", 0, 100).info.size, 5)

    def test_other_range_than_the_one_requested_is_refused(self) -> None:
        for stated in (
            "bytes 0-2/10",
            "bytes 2-3/10",
            "bytes 2-4/*",
            "bytes 2-4",
            "x",
            "bytes 2-9/10",
        ):
            self.server.play(Reply(206, b"abc", Content_Range=stated))
            with self.assertRaisesRegex(StoreError, "another range than bytes 2 to 4"):
                self.client.get("a", 2, 5)
        # The whole object, although a part of it was requested.
        self.server.play(Reply(200, b"abcdefghij"))
        with self.assertRaisesRegex(StoreError, "another range"):
            self.client.get("a", 2, 5)
        with self.assertRaisesRegex(StoreError, "another range"):
            self.client.get("a", 0, 5)

    def test_replaced_object(self) -> None:
        for reply in (
            failure(412, "PreconditionFailed"),
            failure(404, "NoSuchKey"),
            Reply(206, b"cde", ETag='"another"', **PART),
        ):
            self.server.play(reply)
            self.assertRaises(ObjectChanged, self.client.get, "a", 2, 5, "0123456789abcdef")

    def test_missing_and_empty_objects(self) -> None:
        self.server.play(failure(404, "NoSuchKey"))
        self.assertRaises(NotFound, self.client.head, "a")
        self.assertRaises(NotFound, self.client.get, "a", 0, 5)
        self.server.play(failure(416, "InvalidRange"))
        self.assertRaises(EmptyObject, self.client.get, "a", 0, 5)

    def test_stored_digest(self) -> None:
        digest = hashlib.sha256(b"x").digest()
        stored = base64.b64encode(digest).decode()
        whole = {"x_amz_checksum_sha256": stored}
        for headers, expected in (
            (whole, digest.hex()),
            ({**whole, "x_amz_checksum_type": "FULL_OBJECT"}, digest.hex()),
            ({**whole, "x_amz_checksum_type": "COMPOSITE"}, None),
            ({"x_amz_checksum_sha256": f"{stored}-3"}, None),
            ({"x_amz_checksum_sha256": "?"}, None),
            ({"x_amz_checksum_sha256": "YQ=="}, None),
            ({}, None),
        ):
            self.server.play(Reply(**headers))
            self.assertEqual(self.client.head("a", digest=True).sha256, expected, headers)
        self.assertEqual(self.server.requests[0][2]["x-amz-checksum-mode"], "ENABLED")

    def test_object_without_an_etag_is_refused(self) -> None:
        for etag in ("", '""', '"with space"', '"' + 200 * "x" + '"'):
            self.assertIn("without size, time or etag", self.error_of(Reply(ETag=etag)))

    def test_page(self) -> None:
        text = (
            '<?xml version="1.0"?><ListBucketResult><IsTruncated>true</IsTruncated>'
            "<EncodingType>url</EncodingType><NextContinuationToken>t</NextContinuationToken>"
            "<Contents><Key>p/b%01%20c</Key><LastModified>2017-07-14T02:40:00.123Z</LastModified>"
            "<ETag>&quot;e&quot;</ETag><Size>3</Size></Contents>"
            "<CommonPrefixes><Prefix>p/a/</Prefix></CommonPrefixes></ListBucketResult>"
        )
        self.server.play(Reply(200, text.encode(), Server="SeaweedFS 4"))
        page = self.client.page("p/", True, "p/a", None, 7)
        info = (3, 1_500_000_000_000_000_000, "e", None)
        self.assertEqual(page, ([("p/a/", None), ("p/b\x01 c", info)], "t"))
        path = self.server.requests[0][1]
        for part in ("prefix=p%2F", "start-after=p%2Fa", "delimiter=%2F", "max-keys=7"):
            self.assertIn(part, path)
        self.assertTrue(self.client.by_name)
        self.client.page("p/", False, "p/a", "t", 7)
        self.assertIn("continuation-token=t", self.server.requests[1][1])
        self.assertNotIn("start-after", self.server.requests[1][1])


class ErrorTests(S3Case):
    def test_throttling_and_failures(self) -> None:
        for status, code in ((503, "SlowDown"), (500, "InternalError"), (429, "TooMany")):
            # A reply to HEAD has no body, so no code.
            self.assertIn(f"busy or fails (HTTP {status})", self.error_of(failure(status, code)))
        self.server.play(failure(503, "SlowDown"))
        with self.assertRaisesRegex(StoreError, "busy or fails .SlowDown, HTTP 503"):
            self.client.page("", False, "", None, 1)

    def test_throttled_request_is_sent_again(self) -> None:
        self.patch(s3, "ATTEMPTS", 2)
        self.client = self.new_client()
        self.server.play(failure(503, "SlowDown"), Reply(length=7))
        self.assertEqual(self.client.head("a").size, 7)

    def test_denied_access(self) -> None:
        self.assertIn("access denied by the object store", self.error_of(failure(403, "X")))
        self.server.play(failure(403, "AccessDenied", "Access Denied"))
        with self.assertRaisesRegex(StoreError, r"\(AccessDenied, HTTP 403\); check the cred"):
            self.client.page("", False, "", None, 1)

    def test_missing_bucket_and_other_refusals(self) -> None:
        self.server.play(failure(404, "NoSuchBucket"))
        with self.assertRaisesRegex(StoreError, "no such bucket: b"):
            self.client.page("", False, "", None, 1)
        self.assertIn("refuses a request (HTTP 400)", self.error_of(failure(400, "Bad")))

    def test_store_that_does_not_respond(self) -> None:
        self.server.play(Reply(206, b"c", 3, hangs=True, **PART))
        body = self.client.get("a", 2, 5)
        self.assertEqual(self.client._made.meta.config.read_timeout, s3.READ_TIMEOUT)
        # Only now: a busy machine may take long for the header.
        body._stream.set_socket_timeout(0.2)
        with self.assertRaisesRegex(StoreError, "does not respond"):
            body.read(3)
        body.close()

    def test_connection_that_is_cut(self) -> None:
        self.server.play(Reply(206, b"c", 3, **PART))
        body = self.client.get("a", 2, 5)
        with self.assertRaisesRegex(StoreError, "fails"):
            while body.read(3):
                pass

    def test_store_that_is_not_there(self) -> None:
        self.client = S3Client(Location("b", "", "http://127.0.0.1:1"))
        self.assertIn("connection to http://127.0.0.1:1 fails", self.error_of())

    def test_no_credentials(self) -> None:
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        with tempfile.TemporaryDirectory() as home:
            os.environ["HOME"] = home
            self.client = self.new_client()
            self.assertIn("set AWS_ACCESS_KEY_ID and AWS_SECRET", self.error_of())
            os.environ["AWS_PROFILE"] = "absent"
            self.client = self.new_client()
            self.assertIn("AWS_PROFILE names a profile", self.error_of())

    def test_credentials_of_a_profile(self) -> None:
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("[work]\naws_access_key_id = PROFILEKEY\naws_secret_access_key = x\n")
            file.flush()
            os.environ.update(AWS_PROFILE="work", AWS_SHARED_CREDENTIALS_FILE=file.name)
            self.server.play(Reply(length=7))
            self.new_client().head("a")
        self.assertIn("Credential=PROFILEKEY/", self.server.requests[0][2]["Authorization"])

    def test_missing_library(self) -> None:
        absent = {"botocore": None, "botocore.session": None}
        with (
            mock.patch.dict("sys.modules", absent),
            self.assertRaisesRegex(MissingLibrary, r"pip install .natproxy\[s3\]"),
        ):
            self.new_client()
