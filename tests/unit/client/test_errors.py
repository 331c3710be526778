"""What a server's ``ERR`` becomes for a client, and what a program sees of it."""

from __future__ import annotations

import errno
import os
import pickle

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy import client
from natproxy.client import ClientError
from natproxy.client.errors import (
    CannotConnect,
    Changed,
    ConnectionBroken,
    DeletionRefused,
    DigestMismatch,
    Forbidden,
    GaveUp,
    Interrupted,
    Limited,
    ListingIncomplete,
    LocalError,
    NotFound,
    NotUnderstood,
    NoUpstreamReply,
    ServerError,
    TooManyEntries,
    Unavailable,
    Unsupported,
    UsageError,
    download_error,
    error_of,
)
from natproxy.fs.errors import file_changed

PASSING = {CannotConnect, ConnectionBroken, Unavailable}


class ErrorOfTests(SynchronousTestCase):
    def test_every_code_and_message_has_its_kind_and_its_text(self) -> None:
        for reply, kind, text in (
            (b"file not found", NotFound, "file not found"),
            (b"404 file not found", NotFound, "file not found"),
            (b"404 gone for good", NotFound, "gone for good"),
            (b"unknown command", Unsupported, "unknown command"),
            (b"412 changed etag=abc", Changed, "changed on the server"),
            (b"412", Changed, "changed on the server"),
            (b"429 too many", Limited, "too many"),
            (b"503 unavailable", Unavailable, "unavailable"),
            (b"502 broken", Unavailable, "broken"),
            (b"504 the server was silent", Unavailable, "the server was silent"),
            (b"empty response from server", NoUpstreamReply, "empty response from server"),
            (b"502 empty response from server", NoUpstreamReply, "empty response from server"),
            (b"502 malformed reply header 'x'", NoUpstreamReply, "malformed reply header 'x'"),
            (b"503 malformed reply header", Unavailable, "malformed reply header"),
            (b"403 not for you", Forbidden, "not for you"),
            (b"forbidden", Forbidden, "forbidden by a rule of the server"),
            (b"proxy error: x", Unavailable, "proxy error: x"),
            (b"400 unknown argument 'a=1'", ServerError, "unknown argument 'a=1'"),
            (b"416 range size=5", ServerError, "range size=5"),
            (b"500 internal", ServerError, "internal"),
            (b"299 nonsense", ServerError, "nonsense"),
            (b"line too long", ServerError, "line too long"),
            (b"File not found", ServerError, "File not found"),
            (b"4040 x", ServerError, "4040 x"),
            (b"400 file not found", ServerError, "file not found"),
            (b"", ServerError, "the server sent no reason"),
            (b"500", ServerError, "error 500"),
            (b"404 ", NotFound, "error 404"),
        ):
            error = error_of(reply)
            self.assertEqual((type(error), str(error)), (kind, text), reply)
            named = error_of(reply, b"a\xff b")
            self.assertEqual((type(named), str(named)), (kind, f"a\\xff b: {text}"), reply)

    @given(st.binary(), st.binary())
    def test_no_server_and_no_name_can_forge_a_line_or_drive_a_terminal(
        self, reply: bytes, name: bytes
    ) -> None:
        text = str(error_of(reply, name))
        self.assertTrue(text)
        self.assertFalse(set(text) & {"\n", "\r", "\x1b", "\x9b"})


class ForbiddenTests(SynchronousTestCase):
    def test_is_a_permission_error(self) -> None:
        error = error_of(b"403 forbidden", b"a")
        assert isinstance(error, PermissionError)
        self.assertEqual(
            (error.errno, str(error)), (errno.EACCES, "a: forbidden by a rule of the server")
        )

    def test_name_of_several(self) -> None:
        for reply, name in (
            (b"403 forbidden", None),
            (b"403 forbidden name=a%20b", b"a b"),
            (b"403 forbidden name=.", b""),
            (b"403 forbidden name=%zz", None),
            (b"403 forbidden name=", None),
        ):
            error = error_of(reply)
            assert isinstance(error, Forbidden)
            self.assertEqual(error.denied, name)


class DownloadErrorTests(SynchronousTestCase):
    def test_error_keeps_its_kind_and_code(self) -> None:
        error = error_of(b"429 not now")
        named = download_error(error, b"a", 5)
        self.assertEqual((type(named), getattr(named, "code", None)), (Limited, 429))
        self.assertEqual(
            str(named), "a: not now; what was received is kept, and the same command continues it"
        )

    def test_name_is_not_repeated(self) -> None:
        error = error_of(b"429 not now", b"a")
        self.assertEqual(str(download_error(error, b"a", 0)), "a: not now")
        # A message that looks like another one's prefix is no name.
        error = error_of(b"429 a: not now")
        self.assertEqual(str(download_error(error, b"a", 0)), "a: a: not now")

    def test_failed_connection_keeps_its_server(self) -> None:
        named = download_error(CannotConnect("refused", "files:9000"), b"a", 5)
        self.assertEqual(getattr(named, "server", None), "files:9000")

    def test_error_that_is_not_temporary_is_the_same(self) -> None:
        for error in (NotFound("a"), CannotConnect("refused")):
            self.assertIs(download_error(error, b"a", 0), error)


class PickleTests(SynchronousTestCase):
    """A process pool pickles what its functions raise."""

    def test_every_error_is_the_same_afterwards(self) -> None:
        refused = OSError(errno.EACCES, os.strerror(errno.EACCES))
        for error in (
            error_of(b"429 not now", b"a"),
            CannotConnect("refused", "files:9000"),
            LocalError(b"a", refused),
            ListingIncomplete(2),
            file_changed("/a"),
            GaveUp("tried too often"),
        ):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                again = pickle.loads(pickle.dumps(error, protocol))
                self.assertIs(type(again), type(error))
                self.assertEqual((str(again), vars(again)), (str(error), vars(error)))
                self.assertEqual(getattr(again, "filename", ""), getattr(error, "filename", ""))


class KindTests(SynchronousTestCase):
    def test_exit_statuses(self) -> None:
        statuses: dict[int, tuple[type[ClientError], ...]] = {
            1: (ServerError, Unsupported, Unavailable, TooManyEntries),
            2: (UsageError,),
            3: (NotFound,),
            4: (CannotConnect,),
            5: (ConnectionBroken, GaveUp),
            6: (NotUnderstood,),
            7: (DigestMismatch,),
            8: (Changed,),
            9: (LocalError,),
            11: (DeletionRefused,),
            14: (Forbidden,),
            130: (Interrupted,),
        }
        for status, kinds in statuses.items():
            for kind in kinds:
                self.assertEqual(kind.exit_status, status)
                self.assertTrue(issubclass(kind, ClientError))
                self.assertEqual(kind.passing, kind in PASSING)

    def test_failure_here_names_the_file_and_the_reason(self) -> None:
        full = LocalError(b"a\xff\n", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self.assertEqual(str(full), "a\\xff\\x0a: No space left on device")
        self.assertEqual(full.errno, errno.ENOSPC)
        self.assertEqual(str(LocalError(b"a", OSError("odd"))), "a: odd")

    def test_package_offers_every_kind(self) -> None:
        kinds = {CannotConnect, *PASSING, Changed, DigestMismatch, GaveUp, Interrupted, LocalError}
        for kind in kinds | {NotFound, NotUnderstood, ServerError, Unsupported, UsageError}:
            self.assertIs(getattr(client, kind.__name__), kind)
