"""The file server: the protocol's verbs, answered from a served directory.

What is below it: `natproxy.storage` for names and files, `natproxy.relay` for the
bytes, `natproxy.server.connection` for the connection. It knows nothing of the proxy.
"""

from __future__ import annotations

import os
import select
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from natproxy.address import FIRST_STAND_IN_PORT
from natproxy.fileserver.digests import Digests
from natproxy.nat import Outcome
from natproxy.protocol import (
    END,
    FILE_NOT_FOUND,
    UNKNOWN_COMMAND,
    VERBS,
    Arguments,
    Command,
    Digest,
    Metadata,
    Range,
    Refusal,
    abilities,
    error_line,
    format_digest,
    format_metadata,
    format_page,
    format_range,
    name_of,
    parse_arguments,
    printable,
)
from natproxy.relay import FileRelay, ReadInThread, Relays, SinkGone
from natproxy.server.admission import Admission
from natproxy.server.command_log import log_command
from natproxy.server.connection import CommandReceiver
from natproxy.server.factory import CommandFactory
from natproxy.server.rotation import fire_in_turns
from natproxy.server.threads import Abandonment, InThread, Turns
from natproxy.storage import Directory, FileNotFound, Listing, Served, Settling

PAGE = 1000
"""Entries on a page of ``LS``, if the client does not say how many."""

LONGEST_PAGE = 10_000
"""Entries on a page of ``LS``, if the client would have more."""

PAGES_AT_ONCE = 7
"""Pages of ``LS`` that are made at a time."""

PAGES_OF_ONE = 3
"""Such pages of the tree below one entry of the served directory, and of the whole tree.

When a file system hangs, walks of the whole tree hang, and those below the entry at which it is
mounted. The others still have a thread.
"""

PAGES_IN_LINE = 64
"""Pages of ``LS`` that wait for their turn."""

LISTING_THREADS = PAGES_AT_ONCE + 1
"""Threads that ``LS`` and ``LIST`` need."""

READS_AT_ONCE = 16
"""Reads of files that may not be in memory, at a time."""

READS_IN_LINE = 1000
"""Such reads that wait for their turn."""

LOOK_AFTER = 2.0
"""Seconds between two looks whether a client that waits for a thread is still there."""

T = TypeVar("T")


def reads_in(in_thread: InThread, clock: IReactorTime) -> ReadInThread:
    """Return what reads files that may not be in memory.

    :param in_thread: of `READS_AT_ONCE` threads. Half of them are for one file system at
        most: one that hangs leaves the others to be read.
    """
    turns = Turns(in_thread, READS_AT_ONCE, READS_IN_LINE, "reads", clock, share=READS_AT_ONCE // 2)

    def read(work: Callable[[], T], device: int, returned: Callable[[], object]) -> Deferred[T]:
        try:
            return turns.take(work, source=device, ended=returned)
        except Refusal:
            returned()
            return fail()

    return read


class SharedListings:
    """Scans of the directory, off the reactor thread and one at a time.

    Whoever asks while a scan is running waits for the next one, and all who wait share
    it: a listing is never older than the question, and a thousand questions cost two
    scans. A scan that found nothing new shares the memory of the one before.
    """

    _log = Logger()

    def __init__(
        self, directory: Directory, in_thread: InThread, clock: IReactorTime | None = None
    ) -> None:
        self._directory = directory
        self._turns = Turns(in_thread, 1, 0, "listings", clock)
        self._clock = clock
        self._served: OrderedDict[Deferred[bytes], None] = OrderedDict()
        self._abandonment: Abandonment | None = None
        self._waiting: OrderedDict[Deferred[bytes], None] = OrderedDict()
        self._scanning = False
        self._reply = b""
        self._omitted: dict[str, tuple[bytes, ...]] = {}

    def reply(self) -> Deferred[bytes]:
        """Fire with the whole reply to a ``LIST``, or with `OSError`."""
        waiting: Deferred[bytes] = Deferred(self._withdraw)
        self._waiting[waiting] = None
        if not self._scanning:
            self._scan()
        return waiting

    def _withdraw(self, waiter: Deferred[bytes]) -> None:
        if waiter in self._waiting:
            del self._waiting[waiter]
        elif waiter in self._served:
            del self._served[waiter]
            if not self._served and self._abandonment is not None:
                self._abandonment.abandon()

    def _scan(self) -> None:
        self._scanning = True
        self._served = served = self._waiting
        self._waiting = OrderedDict()
        self._abandonment = abandonment = Abandonment()

        def scanned(listing: Listing) -> None:
            reply = b"OK\n" + listing.body + END + b"\n"
            if reply != self._reply:
                self._reply = reply
            self._note_omitted(listing)
            fire_in_turns(served, self._reply, self._clock)

        def failed(failure: Failure) -> None:
            fire_in_turns(served, failure, self._clock)

        def done(_: object) -> None:
            self._scanning = False
            if self._waiting:
                self._scan()

        def scan() -> Listing:
            return self._directory.listing(abandonment.check)

        taken = maybeDeferred(
            self._turns.take, scan, abandon=abandonment.abandon, progress=abandonment.progress
        )
        taken.addCallbacks(scanned, failed).addBoth(done)

    def _note_omitted(self, listing: Listing) -> None:
        kinds = (
            ("that no line can carry", listing.omitted),
            ("that cannot be looked at", listing.unread),
        )
        for why, names in kinds:
            if names != self._omitted.get(why, ()):
                self._omitted[why] = names
                if names:
                    self._log.warn(
                        "LIST leaves out {count} names {why}: {names}",
                        count=len(names),
                        why=why,
                        names=", ".join(printable(name) for name in names[:10]),
                    )


class FileServerProtocol(CommandReceiver):
    """Answers the commands of one client: each verb in a method of its own.

    A method that cannot answer raises `natproxy.protocol.Refusal`.
    """

    log = Logger()
    factory: FileServerFactory
    refusal_prefix = "503 "

    def __init__(self) -> None:
        super().__init__()
        self._asked: Deferred[Any] | None = None
        self._relay: FileRelay | None = None

    def command_received(self, command: Command) -> None:
        """Answer by the verb."""
        verb = VERBS.get(command.verb)
        if verb is None or (verb.version == 1 and verb.needs_name and not command.name):
            self._refuse(UNKNOWN_COMMAND)
            return
        try:
            getattr(self, f"answer_{command.verb.decode()}")(command)
        except Refusal as refusal:
            # A failure of version 1 has no code.
            self._refuse(refusal.message, refusal.code if verb.version > 1 else None)

    def cancel_command(self, outcome: Outcome) -> None:
        """Wait for nothing any more, and close the file that was being sent."""
        sent = 0
        if self._asked is not None:
            self._asked.cancel()
        if self._relay is not None:
            self._relay.stop()
            sent = self._relay.sent
            self._relay = None
        self._log_command(outcome, sent)

    def answer_LIST(self, command: Command) -> None:
        def failed(failure: Failure) -> None:
            self.log.error("cannot list the served directory: {reason}", reason=failure.value)
            self._refuse("the server cannot list its files")

        self._wait_for(self.factory.listings.reply(), self._send_bytes, failed)

    def answer_DOWNLOAD(self, command: Command) -> None:
        served = self._open(command.name)
        header = b"OK %d\n" % served.size
        self._send(
            self.factory.relays.from_file(
                header, served.file, served.size, self.outbound, device=served.result.st_dev
            )
        )

    def answer_FEAT(self, command: Command) -> None:
        parse_arguments(command)
        self._reply(b"OK\n" + abilities() + END + b"\n")

    def answer_STAT(self, command: Command) -> None:
        name = parse_arguments(command).name
        try:
            metadata = self.factory.directory.metadata(name)
        except (FileNotFound, OSError) as error:
            raise self._refusal(name, error) from error
        self._reply(b"OK " + format_metadata(metadata) + b"\n")

    def answer_GET(self, command: Command) -> None:
        asked = parse_arguments(command)
        served, part = self._open_part(asked)
        self._send(
            self.factory.relays.from_file(
                format_range(part),
                served.file,
                part.length,
                self.outbound,
                part.offset,
                partial(_unchanged, served),
                device=served.result.st_dev,
            )
        )

    def answer_LS(self, command: Command) -> None:
        asked = parse_arguments(command)
        limit = min(asked.limit or PAGE, LONGEST_PAGE)
        abandonment = Abandonment()

        def scan() -> bytes:
            body, page = self.factory.directory.page(
                asked.name, asked.depth, asked.after, limit, abandonment.check
            )
            return format_page(len(body), page) + body

        self._wait_for(
            self.factory.pages.take(
                scan,
                self._place,
                asked.name.partition(b"/")[0],
                abandonment.abandon,
                progress=abandonment.progress,
            ),
            self._send_bytes,
            partial(self._failed, asked.name),
        )

    def answer_HASH(self, command: Command) -> None:
        asked = parse_arguments(command)
        if asked.alg != "sha256":
            raise Refusal(400, f"unsupported alg '{asked.alg}': only sha256")
        served, part = self._open_part(asked)

        def computed(sha256: str) -> None:
            digest = Digest(sha256, part.metadata.size, part.metadata.etag)
            self._reply(b"OK " + format_digest(digest) + b"\n")

        self._wait_for(
            self.factory.digests.digest(served, part.offset, part.length, self._place),
            computed,
            partial(self._failed, asked.name),
        )

    @property
    def _place(self) -> Hashable:
        """Whose turn it is among those who wait for threads: a host, or a local process."""
        address = self.client_address
        return address.host if address.port < FIRST_STAND_IN_PORT else address

    def _open(self, name: bytes) -> Served:
        try:
            return self.factory.directory.open(name)
        except (FileNotFound, OSError) as error:
            raise self._refusal(name, error) from error

    def _open_part(self, asked: Arguments) -> tuple[Served, Range]:
        """Open a file and say which part of it is asked for.

        :raises Refusal: if there is no such part, or no such file.
        """
        served = self._open(asked.name)
        try:
            return served, _part_of(served.metadata, asked)
        except Refusal:
            served.file.close()
            raise

    def _wait_for(
        self, asked: Deferred[T], answer: Callable[[T], None], failed: Callable[[Failure], None]
    ) -> None:
        """Answer with what another thread finds, if the client is still there by then."""

        def found(result: T) -> None:
            self._asked = None
            self.factory.waits_no_more(self)
            answer(result)

        def not_found(failure: Failure) -> None:
            self._asked = None
            self.factory.waits_no_more(self)
            if not failure.check(CancelledError):
                failed(failure)

        self._asked = asked
        if not asked.called:
            self.factory.waits(self)
        asked.addCallbacks(found, not_found).addErrback(self.fail)

    def _failed(self, name: bytes, failure: Failure) -> None:
        refusal = failure.value
        if isinstance(refusal, (FileNotFound, OSError)):
            refusal = self._refusal(name, refusal)
        elif not isinstance(refusal, Refusal):
            self.log.failure("cannot answer for {name}", failure, name=_shown(name))
            refusal = Refusal(500, "internal error")
        self._refuse(refusal.message, refusal.code)

    def _refusal(self, name: bytes, error: FileNotFound | OSError) -> Refusal:
        """Say to the client what an error is to it, and to the log what we lack."""
        if isinstance(error, FileNotFound):
            return Refusal(404, FILE_NOT_FOUND)
        self.log.error("cannot open {name}: {reason}", name=_shown(name), reason=error)
        return Refusal(503, "the server cannot open files at present")

    def _reply(self, reply: bytes) -> None:
        self.outbound.write(reply)
        self._log_command(Outcome.COMPLETED, len(reply))
        self.reply_finished()

    def _send_bytes(self, reply: bytes) -> None:
        self._send(self.factory.relays.from_memory(BytesIO(reply), len(reply), self.outbound))

    def _send(self, relay: FileRelay) -> None:
        self._relay = relay
        self._relay.finished.addCallbacks(self._all_sent, self._broken_off)
        self._relay.start()

    def _all_sent(self, _: None) -> None:
        assert self._relay is not None
        self._log_command(Outcome.COMPLETED, self._relay.sent)
        self._relay = None
        self.reply_finished()

    def _broken_off(self, failure: Failure) -> None:
        if failure.check(SinkGone):
            self.abort(Outcome.CLIENT_GONE)
            return
        relay, self._relay = self._relay, None
        assert relay is not None
        error = failure.value
        if not relay.begun and isinstance(error, (OSError, Refusal)):
            # Nothing has been promised yet.
            if isinstance(error, OSError):
                error = self._refusal(name_of(self._command), error)
            version_1 = VERBS[self._command.verb].version == 1
            self._refuse(error.message, None if version_1 else error.code)
            return
        self._relay = relay
        # The promised bytes can't be had: only an abort tells the client so.
        self.log.error(
            "reply to {client} broken off: {reason}",
            client=self.client_address,
            reason=error,
        )
        self.abort(Outcome.ERROR)

    @property
    def _command(self) -> Command:
        assert self.command is not None
        return self.command

    def _log_command(self, outcome: Outcome, sent: int) -> None:
        log_command(
            self.log,
            self.client_address,
            self._command,
            outcome,
            sent,
            self.factory.clock.seconds() - self.started_at,
        )

    def _refuse(self, message: str, code: int | None = None) -> None:
        self._log_command(Outcome.COMPLETED, len(error_line(message, code)))
        self.reply_error(message, code)


class FileServerFactory(CommandFactory):
    """The file server's connections, and what they share.

    :param clock: for every time-out.
    :param directory: what is served.
    :param in_thread: where directories are scanned; of `LISTING_THREADS` threads.
    :param idle_timeout: seconds that a client may take to send its next command, or to
        read on; then it is cut off.
    :param relays: move the files.
    :param settling: says which digests may be remembered.
    :param hash_in_thread: where files are read for their digests, if elsewhere.
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
        settling: Settling | None = None,
        hash_in_thread: InThread | None = None,
        admission: Admission | None = None,
        first_command_timeout: float = 0.0,
    ) -> None:
        super().__init__(clock, idle_timeout, admission, first_command_timeout)
        self.relays = relays or Relays()
        self.directory = directory
        self.listings = SharedListings(directory, in_thread, clock)
        self.pages = Turns(
            in_thread, PAGES_AT_ONCE, PAGES_IN_LINE, "listings", clock, share=PAGES_OF_ONE
        )
        self.digests = Digests(hash_in_thread or in_thread, settling, clock)
        self._waiting: set[FileServerProtocol] = set()
        self._looking: IDelayedCall | None = None

    def waits(self, protocol: FileServerProtocol) -> None:
        """Look now and then whether a client that waits for a thread is still there."""
        self._waiting.add(protocol)
        if self._looking is None:
            self._looking = self.clock.callLater(LOOK_AFTER, self._look)

    def waits_no_more(self, protocol: FileServerProtocol) -> None:
        """The client is not waiting any more."""
        self._waiting.discard(protocol)
        if not self._waiting and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        self._looking = None
        for protocol in list(self._waiting):
            if is_reset(protocol.transport):
                protocol.abort(Outcome.CLIENT_GONE)
        if self._waiting:
            self._looking = self.clock.callLater(LOOK_AFTER, self._look)

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


def _part_of(metadata: Metadata, asked: Arguments) -> Range:
    """Give the part of a file that is asked for, up to the file's end.

    :raises Refusal: with code 412 if it is another file by now, with 416 if the part
        begins after the end.
    """
    if asked.if_match not in (None, metadata.etag):
        raise Refusal(412, f"changed etag={metadata.etag}")
    if asked.offset > metadata.size:
        raise Refusal(416, f"range size={metadata.size}")
    rest = metadata.size - asked.offset
    length = rest if asked.length is None else min(asked.length, rest)
    return Range(length, asked.offset, metadata)


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
    return printable(name) or "the served directory"


def is_reset(transport: object) -> bool:
    """Return whether a connection is dead in both directions.

    After a half-close, or while it is not read from, its end is not told of otherwise.
    """
    # The handle of a TLS transport is no socket: that of the TCP connection below it is.
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    handle = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(handle, socket.socket) or handle.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(handle, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
