"""The file server: the protocol's verbs, answered from a served directory.

What is below it: `natproxy.storage` for names and files, `natproxy.relay` for the
bytes, `natproxy.commands` for the connection. It knows nothing of the proxy.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy import wire
from natproxy.commands import CommandFactory, CommandReceiver
from natproxy.nat import Outcome
from natproxy.relay import FileRelay, Relays, SinkGone
from natproxy.storage import Directory, FileNotFound, Listing

InThread = Callable[[Callable[[], Listing]], "Deferred[Listing]"]
"""Calls a function in a thread and fires with its result in the reactor's."""


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
    """Answers the commands of one client."""

    log = Logger()
    factory: FileServerFactory

    def __init__(self) -> None:
        super().__init__()
        self._relay: FileRelay | None = None

    def command_received(self, command: wire.Command) -> None:
        """Answer by the verb."""
        verb = wire.VERBS.get(command.verb)
        if verb is None or (verb.version == 1 and verb.needs_name and not command.name):
            self._fail(wire.UNKNOWN_COMMAND)
        else:
            getattr(self, f"answer_{command.verb.decode()}")(command)

    def stop_answering(self, outcome: Outcome) -> None:
        """Close the file that was being sent."""
        sent = 0
        if self._relay is not None:
            self._relay.stop()
            sent = self._relay.sent
            self._relay = None
        self.log_outcome(outcome, sent)

    def answer_LIST(self, command: wire.Command) -> None:
        def listed(reply: bytes) -> None:
            if self.answering is command:
                self._send(
                    self.factory.relays.from_memory(BytesIO(reply), len(reply), self.outflow)
                )

        def failed(failure: Failure) -> None:
            self.log.error("cannot list the served directory: {reason}", reason=failure.value)
            if self.answering is command:
                self._fail("the server cannot list its files")

        self.factory.listings.reply().addCallbacks(listed, failed)

    def answer_DOWNLOAD(self, command: wire.Command) -> None:
        try:
            file, size = self.factory.directory.open(command.name)
        except FileNotFound:
            self._fail(wire.FILE_NOT_FOUND)
        except OSError as error:
            self.log.error(
                "cannot open {name}: {reason}", name=wire.printable(command.name), reason=error
            )
            self._fail("the server cannot open files at present")
        else:
            header = b"OK %d\n" % size
            self._send(self.factory.relays.from_file(header, file, size, self.outflow))

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

    def _fail(self, message: str) -> None:
        self.log_outcome(Outcome.COMPLETED, len(wire.error_line(message)))
        self.reply_error(message)


class FileServerFactory(CommandFactory):
    """The file server's connections, and what they share.

    :param clock: for every time-out.
    :param directory: what is served.
    :param in_thread: where directory scans run.
    :param idle_timeout: seconds that a client may take to send its next command, or to
        read on; then it is cut off.
    :param relays: move the files.
    """

    def __init__(
        self,
        clock: IReactorTime,
        directory: Directory,
        in_thread: InThread,
        idle_timeout: float,
        relays: Relays | None = None,
    ) -> None:
        super().__init__(clock, idle_timeout)
        self.relays = relays or Relays()
        self.directory = directory
        self.listings = SharedListings(directory, in_thread)

    def buildProtocol(  # type: ignore[override]  # our factory attribute is narrower
        self, addr: IAddress | None
    ) -> FileServerProtocol:
        """Serve a new client."""
        protocol = FileServerProtocol()
        protocol.factory = self
        return protocol
