"""The file server's side of a client's connection: the verbs, with a storage behind them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.access import Verdict
from natproxy.address import FIRST_STAND_IN_PORT
from natproxy.fileserver.digests import Digests
from natproxy.fileserver.listings import SharedListings
from natproxy.fileserver.lookups import Lookups
from natproxy.fileserver.packs import Packs
from natproxy.fileserver.pages import Pages
from natproxy.fileserver.refusals import parse_digest, range_of_file, refusal_of, shown
from natproxy.nat import Outcome
from natproxy.protocol import (
    AUTH,
    END,
    UNKNOWN_COMMAND,
    VERBS,
    Arguments,
    Command,
    Digest,
    Refusal,
    abilities,
    error_line,
    errors,
    format_digest,
    format_metadata,
    format_range,
    name_of,
    parse_arguments,
    parse_names,
)
from natproxy.relay import DIRECT, FileJob, PeerGone, Relay, Relays
from natproxy.server.connection import CommandReceiver
from natproxy.server.events import Finished
from natproxy.server.threads import WorkRefused
from natproxy.storage import NotFound, OpenFile, Storage

T = TypeVar("T")


@dataclass
class Services:
    """What the connections of one file server share.

    :ivar storage: what is served.
    :ivar relays: send the files.
    :ivar listings: replies to ``LIST``.
    :ivar pages: replies to ``LS``.
    :ivar packs: replies to ``PACK``.
    :ivar digests: of files.
    :ivar lookups: calls a storage that may wait for a network; it is not used for others.
    """

    storage: Storage
    relays: Relays
    listings: SharedListings
    pages: Pages
    packs: Packs
    digests: Digests
    lookups: Lookups


class FileServerProtocol(CommandReceiver):
    """Replies to the commands of one client: each verb has a method ``command_VERB``.

    Such a method raises `natproxy.protocol.Refusal`, or `WorkRefused`, if the command fails before
    its reply has begun.

    :param services: shared with other connections.
    :cvar methods: the method for each verb; see `methods_of`.
    :ivar translation: boot and serial of the translation of the proxy that has connected, from a
        PROXY header; ``None`` without one.
    """

    log = Logger()
    methods: ClassVar[dict[bytes, Callable[[Any, Command], None]]]
    translation: str | None = None
    refusal_prefix = f"{errors.UNAVAILABLE} "

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        # The current command waits for one of these, or for nothing.
        self._result: Deferred[Any] | None = None
        self._relay: Relay | None = None
        self._published = False
        # Bytes of a pack that is being sent.
        self._packed = 0

    def peer_identified(self) -> None:
        """Count the client to its host, and keep the proxy's translation."""
        self.translation = getattr(self.transport, "translation", None)
        super().peer_identified()

    def command_received(self, command: Command) -> None:
        """Call the method of the command's verb."""
        self._published = False
        verb = VERBS.get(command.verb)
        if verb is None or (verb.version == 1 and verb.needs_name and not command.name):
            self._refuse(Refusal(errors.BAD_REQUEST, UNKNOWN_COMMAND))
            return
        try:
            self.methods[command.verb](self, command)
        except Refusal as refusal:
            self._refuse(refusal)
        except WorkRefused as error:
            self._refuse(refusal_of(b"", error))

    def cancel_command(self, outcome: Outcome) -> None:
        """Cancel the work for the current command, and close the file that was being sent."""
        sent = 0
        if self._result is not None:
            self._result.cancel()
        if self._relay is not None:
            self._relay.cancel()
            sent = self._relay.sent
            self._relay = None
        self._release_pack()
        self._publish(outcome, sent)

    def publish_refusal(self, command: Command, verdict: Verdict, sent: int) -> None:
        """Publish that a command has ended before it has begun."""
        subscribers = self.factory.subscribers
        if subscribers.by_kind[Finished]:
            now = self.factory.clock.seconds()
            subscribers.publish(
                Finished(
                    self.client_address,
                    command,
                    verdict.outcome,
                    sent,
                    self.started_at,
                    now,
                    verdict.reason,
                    self.identity,
                    self.translation,
                )
            )

    def command_LIST(self, command: Command) -> None:
        """Send the names of the files in the top directory."""

        def failed(failure: Failure) -> None:
            self.log.error("cannot list the served directory: {reason}", reason=failure.value)
            self._refuse(Refusal(errors.UNAVAILABLE, "the server cannot list its files"))

        self._wait_for(self._services.listings.reply(), self._send_bytes, failed)

    def command_DOWNLOAD(self, command: Command) -> None:
        """Send a file."""
        file = self._open(command.name)
        size = file.size
        header = b"OK %d\n" % size
        self._send(FileJob(header, file, size, self.outbound, self._sent, device=file.device))

    def command_FEAT(self, command: Command) -> None:
        """Send the verbs of version 2 and their arguments."""
        parse_arguments(command)
        self._reply(b"OK\n" + abilities(self.may_authenticate) + END + b"\n")

    def command_STAT(self, command: Command) -> None:
        """Send the metadata of a file or a directory."""
        name = parse_arguments(command).name
        try:
            metadata = self._services.storage.metadata(name)
        except (NotFound, OSError) as error:
            raise refusal_of(name, error) from error
        self._reply(b"OK " + format_metadata(metadata) + b"\n")

    def command_GET(self, command: Command) -> None:
        """Send a range of a file, unless it is modified meanwhile."""
        arguments = parse_arguments(command)
        self._send_range(arguments, self._open(arguments.name))

    def command_LS(self, command: Command) -> None:
        """Send a page of entries below a directory."""
        arguments = parse_arguments(command)
        self._wait_for(
            self._services.pages.page(arguments, self._client_host),
            self._send_bytes,
            partial(self._failed, arguments.name),
        )

    def command_PACK(self, command: Command) -> None:
        """Send several small files, or the first of them."""
        names = parse_names(command)
        self._wait_for(
            self._services.packs.pack(names, self._client_host),
            self._send_pack,
            partial(self._failed, names[0]),
        )

    def command_HASH(self, command: Command) -> None:
        """Send the digest of a range of a file."""
        arguments = parse_digest(command)
        self._send_digest(arguments, self._open(arguments.name))

    @property
    def _client_host(self) -> Hashable:
        """Identifies the client in a fair order: its host, or a local process."""
        address = self.client_address
        return address.host if address.port < FIRST_STAND_IN_PORT else address

    def _open(self, name: bytes) -> OpenFile:
        try:
            return self._services.storage.open(name)
        except (NotFound, OSError) as error:
            raise refusal_of(name, error) from error

    def _send_range(self, arguments: Arguments, file: OpenFile) -> None:
        """Send a range of an open file.

        :raises Refusal: if there is no such range.
        """
        part = range_of_file(file, arguments)
        self._send(
            FileJob(
                format_range(part),
                file,
                part.length,
                self.outbound,
                self._sent,
                part.offset,
                file.unchanged,
                file.device,
            )
        )

    def _send_digest(self, arguments: Arguments, file: OpenFile) -> None:
        """Send the digest of a range of an open file.

        :raises Refusal: if there is no such range.
        """
        part = range_of_file(file, arguments)

        def computed(sha256: str) -> None:
            digest = Digest(sha256, part.metadata.size, part.metadata.etag)
            self._reply(b"OK " + format_digest(digest) + b"\n")

        self._wait_for(
            self._services.digests.digest(file, part.offset, part.length, self._client_host),
            computed,
            partial(self._failed, arguments.name),
        )

    def _wait_for(
        self, result: Deferred[T], reply: Callable[[T], None], failed: Callable[[Failure], None]
    ) -> None:
        """Reply with a result when it is there; the command may be cancelled before.

        :param reply: called with the result.
        :param failed: called with the failure in its place.
        """

        def fired(value: T | Failure) -> None:
            self._result = None
            if not isinstance(value, Failure):
                reply(value)
            elif not value.check(CancelledError):
                failed(value)

        self._result = result
        result.addBoth(fired).addErrback(self.fail)

    def _failed(self, name: bytes, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, (NotFound, OSError, WorkRefused)):
            error = refusal_of(name, error)
        elif not isinstance(error, Refusal):
            self.log.failure("cannot reply for {name}", failure, name=shown(name))
            error = Refusal(errors.INTERNAL_ERROR, "internal error")
        self._refuse(error)

    def _reply(self, reply: bytes) -> None:
        self.outbound.write(reply)
        self._publish(Outcome.COMPLETED, len(reply))
        self.reply_finished()

    def _refuse(self, refusal: Refusal) -> None:
        """Reply with an error; one of version 1, or of an unknown verb, has no code."""
        code = refusal.code if self._current.coded else None
        self._publish(Outcome.COMPLETED, len(error_line(refusal.message, code)))
        self.reply_error(refusal.message, code)

    def _send_bytes(self, reply: bytes) -> None:
        if len(reply) <= DIRECT:
            self._reply(reply)
        else:
            self._start(self._services.relays.send_bytes(reply, self.outbound, self._sent))

    def _send_pack(self, reply: bytes) -> None:
        if len(reply) > DIRECT:
            self._packed = len(reply)
            self._services.packs.held += len(reply)
        self._send_bytes(reply)

    def _release_pack(self) -> None:
        self._services.packs.held -= self._packed
        self._packed = 0

    def _send(self, job: FileJob) -> None:
        """Send a part of a file, without a relay if it is small and need not be waited for."""
        reply = self._services.relays.read_small(job)
        if reply is not None:
            self._reply(reply)
        else:
            self._start(self._services.relays.send(job))

    def _start(self, relay: Relay) -> None:
        self._relay = relay
        self.body_begun()
        relay.start()

    def _sent(self, error: Exception | None) -> None:
        """Finish the reply, or fail or abort it, when its relay has ended."""
        relay = self._relay
        assert relay is not None
        self._release_pack()
        if error is None:
            self._relay = None
            self._publish(Outcome.COMPLETED, relay.sent)
            self.reply_finished()
        elif isinstance(error, PeerGone):
            self.abort(Outcome.CLIENT_GONE)
        elif not relay.begun and isinstance(error, (OSError, WorkRefused)):
            # Nothing has been promised yet.
            self._relay = None
            self._refuse(refusal_of(name_of(self._current), error))
        else:
            # The promised bytes cannot be sent, and only an abort lets the client notice.
            self.log.error(
                "reply to {client} broken off: {reason}",
                client=self.client_address,
                reason=error,
            )
            self.abort(Outcome.ERROR)

    @property
    def _current(self) -> Command:
        assert self.command is not None
        return self.command

    def _publish(self, outcome: Outcome, sent: int) -> None:
        """Publish the end of the current command, once: a subscriber may abort the connection.

        :param sent: bytes of the reply.
        """
        subscribers = self.factory.subscribers
        if subscribers.by_kind[Finished] and not self._published:
            self._published = True
            subscribers.publish(
                Finished(
                    self.client_address,
                    self._current,
                    outcome,
                    sent,
                    self.started_at,
                    self.factory.clock.seconds(),
                    identity=self.identity,
                    translation=self.translation,
                )
            )


def methods_of(protocol: type[FileServerProtocol]) -> dict[bytes, Callable[[Any, Command], None]]:
    """Return the method for each verb.

    :param protocol: the class that has them.
    """
    # `CommandReceiver` replies to ``AUTH``.
    return {word: getattr(protocol, f"command_{word.decode()}") for word in VERBS if word != AUTH}


FileServerProtocol.methods = methods_of(FileServerProtocol)
