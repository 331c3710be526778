"""The file server: the protocol's verbs, answered from a served directory.

What is below it: `natproxy.storage` for names and files, `natproxy.relay` for the
bytes, `natproxy.commands` for the connection. It knows nothing of the proxy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy import wire
from natproxy.admission import Admission
from natproxy.commands import CommandFactory, CommandReceiver
from natproxy.digests import Digests
from natproxy.nat import Outcome
from natproxy.relay import FileRelay, Relays, SinkGone
from natproxy.storage import Directory, FileNotFound, Listing, Served
from natproxy.threads import InThread, Turns

PAGE = 1000
"""Entries on a page of ``LS``, if the client does not say how many."""

LONGEST_PAGE = 10_000
"""Entries on a page of ``LS``, if the client would have more."""

T = TypeVar("T")


class SharedListings:
    """Scans of the directory, off the reactor thread and one at a time.

    Whoever asks while a scan is running waits for the next one, and all who wait share
    it: a listing is never older than the question, and a thousand questions cost two
    scans. A scan that found nothing new shares the memory of the one before.
    """

    _log = Logger()

    def __init__(self, directory: Directory, in_thread: InThread) -> None:
        self._directory = directory
        self._in_thread = in_thread
        self._waiting: list[Deferred[bytes]] = []
        self._scanning = False
        self._reply = b""
        self._omitted: tuple[bytes, ...] = ()

    def reply(self) -> Deferred[bytes]:
        """Fire with the whole reply to a ``LIST``, or with `OSError`."""
        waiting: Deferred[bytes] = Deferred()
        self._waiting.append(waiting)
        if not self._scanning:
            self._scan()
        return waiting

    def _scan(self) -> None:
        self._scanning = True
        waiting, self._waiting = self._waiting, []

        def scanned(listing: Listing) -> None:
            reply = b"OK\n" + listing.body + wire.END + b"\n"
            if reply != self._reply:
                self._reply = reply
            self._note_omitted(listing.omitted)
            for waiter in waiting:
                waiter.callback(self._reply)

        def failed(failure: Failure) -> None:
            for waiter in waiting:
                waiter.errback(failure)

        def done(_: object) -> None:
            self._scanning = False
            if self._waiting:
                self._scan()

        self._in_thread(self._directory.listing).addCallbacks(scanned, failed).addBoth(done)

    def _note_omitted(self, omitted: tuple[bytes, ...]) -> None:
        if omitted != self._omitted:
            self._omitted = omitted
            if omitted:
                self._log.warn(
                    "LIST leaves out {count} names that no line can carry: {names}",
                    count=len(omitted),
                    names=", ".join(wire.printable(name) for name in omitted[:10]),
                )


class FileServerProtocol(CommandReceiver):
    """Answers the commands of one client: each verb in a method of its own.

    A method that cannot answer raises `natproxy.wire.Refusal`.
    """

    log = Logger()
    factory: FileServerFactory
    refusal_prefix = "503 "

    def __init__(self) -> None:
        super().__init__()
        self._asked: Deferred[Any] | None = None
        self._relay: FileRelay | None = None

    def command_received(self, command: wire.Command) -> None:
        """Answer by the verb."""
        verb = wire.VERBS.get(command.verb)
        if verb is None or (verb.version == 1 and verb.needs_name and not command.name):
            self._refuse(wire.UNKNOWN_COMMAND)
            return
        try:
            getattr(self, f"answer_{command.verb.decode()}")(command)
        except wire.Refusal as refusal:
            # A failure of version 1 has no code.
            self._refuse(refusal.message, refusal.code if verb.version > 1 else None)

    def stop_answering(self, outcome: Outcome) -> None:
        """Wait for nothing any more, and close the file that was being sent."""
        sent = 0
        if self._asked is not None:
            self._asked.cancel()
        if self._relay is not None:
            self._relay.stop()
            sent = self._relay.sent
            self._relay = None
        self.log_outcome(outcome, sent)

    def answer_LIST(self, command: wire.Command) -> None:
        def failed(failure: Failure) -> None:
            self.log.error("cannot list the served directory: {reason}", reason=failure.value)
            self._refuse("the server cannot list its files")

        self._wait_for(self.factory.listings.reply(), self._send_bytes, failed)

    def answer_DOWNLOAD(self, command: wire.Command) -> None:
        served = self._open(command.name)
        header = b"OK %d\n" % served.size
        self._send(self.factory.relays.from_file(header, served.file, served.size, self.outflow))

    def answer_FEAT(self, command: wire.Command) -> None:
        wire.parse_arguments(command)
        self._reply(b"OK\n" + wire.abilities() + wire.END + b"\n")

    def answer_STAT(self, command: wire.Command) -> None:
        name = wire.parse_arguments(command).name
        try:
            status = self.factory.directory.status(name)
        except (FileNotFound, OSError) as error:
            raise self._refusal(name, error) from error
        self._reply(b"OK " + wire.format_status(status) + b"\n")

    def answer_GET(self, command: wire.Command) -> None:
        asked = wire.parse_arguments(command)
        served, part = self._open_part(asked)
        self._send(
            self.factory.relays.from_file(
                wire.format_range(part),
                served.file,
                part.length,
                self.outflow,
                part.offset,
                partial(_unchanged, served),
            )
        )

    def answer_LS(self, command: wire.Command) -> None:
        asked = wire.parse_arguments(command)
        limit = min(asked.limit or PAGE, LONGEST_PAGE)

        def scan() -> bytes:
            page = self.factory.directory.page(asked.name, asked.depth, asked.after, limit)
            return b"OK %d\n" % len(page) + page

        self._wait_for(
            self.factory.pages.take(scan), self._send_bytes, partial(self._failed, asked.name)
        )

    def answer_HASH(self, command: wire.Command) -> None:
        asked = wire.parse_arguments(command)
        if asked.alg != "sha256":
            raise wire.Refusal(400, f"unsupported alg '{asked.alg}': only sha256")
        served, part = self._open_part(asked)

        def computed(sha256: str) -> None:
            digest = wire.Digest(sha256, part.status.size, part.status.etag)
            self._reply(b"OK " + wire.format_digest(digest) + b"\n")

        self._wait_for(
            self.factory.digests.digest(served, part.offset, part.length),
            computed,
            partial(self._failed, asked.name),
        )

    def _open(self, name: bytes) -> Served:
        try:
            return self.factory.directory.open(name)
        except (FileNotFound, OSError) as error:
            raise self._refusal(name, error) from error

    def _open_part(self, asked: wire.Arguments) -> tuple[Served, wire.Range]:
        """Open a file and say which part of it is asked for.

        :raises Refusal: if there is no such part, or no such file.
        """
        served = self._open(asked.name)
        try:
            return served, _part_of(served.status, asked)
        except wire.Refusal:
            served.file.close()
            raise

    def _wait_for(
        self, asked: Deferred[T], answer: Callable[[T], None], failed: Callable[[Failure], None]
    ) -> None:
        """Answer with what another thread finds, if the client is still there by then."""

        def found(result: T) -> None:
            self._asked = None
            answer(result)

        def not_found(failure: Failure) -> None:
            self._asked = None
            if not failure.check(CancelledError):
                failed(failure)

        self._asked = asked
        asked.addCallbacks(found, not_found).addErrback(self.defect)

    def _failed(self, name: bytes, failure: Failure) -> None:
        refusal = failure.value
        if isinstance(refusal, (FileNotFound, OSError)):
            refusal = self._refusal(name, refusal)
        elif not isinstance(refusal, wire.Refusal):
            self.log.failure("cannot answer for {name}", failure, name=_shown(name))
            refusal = wire.Refusal(500, "internal error")
        self._refuse(refusal.message, refusal.code)

    def _refusal(self, name: bytes, error: FileNotFound | OSError) -> wire.Refusal:
        """Say to the client what an error is to it, and to the log what we lack."""
        if isinstance(error, FileNotFound):
            return wire.Refusal(404, wire.FILE_NOT_FOUND)
        self.log.error("cannot open {name}: {reason}", name=_shown(name), reason=error)
        return wire.Refusal(503, "the server cannot open files at present")

    def _reply(self, reply: bytes) -> None:
        self.outflow.write(reply)
        self.log_outcome(Outcome.COMPLETED, len(reply))
        self.reply_finished()

    def _send_bytes(self, reply: bytes) -> None:
        self._send(self.factory.relays.from_memory(BytesIO(reply), len(reply), self.outflow))

    def _send(self, relay: FileRelay) -> None:
        self._relay = relay
        self._relay.finished.addCallbacks(self._all_sent, self._broken_off)
        self._relay.start()

    def _all_sent(self, _: None) -> None:
        assert self._relay is not None
        self.log_outcome(Outcome.COMPLETED, self._relay.sent)
        self._relay = None
        self.reply_finished()

    def _broken_off(self, failure: Failure) -> None:
        if failure.check(SinkGone):
            self.abort(Outcome.CLIENT_GONE)
            return
        # The promised bytes can't be had: only an abort tells the client so.
        self.log.error(
            "reply to {client} broken off: {reason}",
            client=self.client_address,
            reason=failure.value,
        )
        self.abort(Outcome.ERROR)

    def _refuse(self, message: str, code: int | None = None) -> None:
        self.log_outcome(Outcome.COMPLETED, len(wire.error_line(message, code)))
        self.reply_error(message, code)


class FileServerFactory(CommandFactory):
    """The file server's connections, and what they share.

    :param clock: for every time-out.
    :param directory: what is served.
    :param in_thread: where directories are scanned, and files read for their digests.
    :param idle_timeout: seconds that a client may take to send its next command, or to
        read on; then it is cut off.
    :param relays: move the files.
    :param wall_clock: seconds since the epoch.
    :param admission: limits the number of clients.
    :param first_command_timeout: seconds that a client may take for its first command; 0
        for no limit but `idle_timeout`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        directory: Directory,
        in_thread: InThread,
        idle_timeout: float,
        relays: Relays | None = None,
        wall_clock: Callable[[], float] = time.time,
        admission: Admission | None = None,
        first_command_timeout: float = 0.0,
    ) -> None:
        super().__init__(clock, idle_timeout, admission, first_command_timeout)
        self.relays = relays or Relays()
        self.directory = directory
        self.listings = SharedListings(directory, in_thread)
        self.pages = Turns(in_thread, at_once=4, in_line=64, what="listings")
        self.digests = Digests(in_thread, wall_clock)

    def drain(self) -> Deferred[None]:
        """Let every client finish; then stop the digests that nobody waits for."""
        return super().drain().addCallback(lambda _: self.digests.stop())

    def abort(self) -> None:
        """Cut off the clients that are left, and stop what is computed for them."""
        super().abort()
        self.digests.stop()

    def buildProtocol(  # type: ignore[override]  # our factory attribute is narrower
        self, addr: IAddress | None
    ) -> FileServerProtocol | None:
        """Make the protocol of a new client; `None` if there are too many."""
        if self.overloaded(addr):
            return None
        protocol = FileServerProtocol()
        protocol.factory = self
        return protocol


def _part_of(status: wire.Status, asked: wire.Arguments) -> wire.Range:
    """Give the part of a file that is asked for, up to the file's end.

    :raises Refusal: with code 412 if it is another file by now, with 416 if the part
        begins after the end.
    """
    if asked.if_match not in (None, status.etag):
        raise wire.Refusal(412, f"changed etag={status.etag}")
    if asked.offset > status.size:
        raise wire.Refusal(416, f"range size={status.size}")
    rest = status.size - asked.offset
    length = rest if asked.length is None else min(asked.length, rest)
    return wire.Range(length, asked.offset, status)


def _unchanged(served: Served) -> bool:
    """Tell whether an open file still holds what its header says.

    Not by the ``etag``: a file that is replaced by a rename, or unlinked, is still open
    and whole, but has one name less, which its ctime tells and its content does not. Nor
    is growth a change: what was promised is still there, and a log would never be sent.
    """
    now, then = os.fstat(served.file.fileno()), served.result
    return now.st_size > then.st_size or (
        (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    )


def _shown(name: bytes) -> str:
    return wire.printable(name) or "the served directory"
