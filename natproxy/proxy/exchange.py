"""One command of a client and its reply, over all attempts on upstreams."""

from __future__ import annotations

from contextlib import suppress

from twisted.internet.interfaces import IDelayedCall

from natproxy.nat import Earlier, NATEntry, Outcome
from natproxy.protocol import (
    GATEWAY_TIMEOUT,
    PROXY_ERROR,
    UNAVAILABLE,
    Command,
    Header,
    WireError,
    parse_abilities,
)
from natproxy.proxy.attempt import UpstreamFactory
from natproxy.proxy.attempted import Connection
from natproxy.proxy.failure import Kind, Loss, is_failure_of_upstream
from natproxy.proxy.interfaces import Client
from natproxy.proxy.resources import Resources
from natproxy.proxy.resumption import Resumption
from natproxy.proxy.retries import (
    BEGUN,
    LONGEST_DELAY,
    TRANSITIONS,
    Event,
    Schedule,
    State,
    may_be_repeated,
    most_losses,
)
from natproxy.proxy.retry_log import RetryLog
from natproxy.proxy.rewriting import GET, Rewriting, can_get
from natproxy.proxy.upstreams import Upstream

_DOWNLOAD = b"DOWNLOAD"
_CONNECT, _CONNECTED, _ENDED = Event.CONNECT, Event.CONNECTED, Event.ENDED


class Exchange:
    """One command of a client: it has attempts, one at a time, until it has a reply.

    Most commands have one attempt. What later ones need is set when there is one.

    :param client: its client's side.
    :ivar sent: what is sent to the upstream: the command, or a ``GET`` in its place.
    :ivar state: how far the command is.
    :ivar upstream: of the last attempt.
    :ivar earlier: the earlier attempts, for the table; ``None`` before the second one.
    :ivar resumption: the rest of the body, if an upstream has failed inside it.
    """

    upstream: Upstream
    earlier: Earlier | None = None
    resumption: Resumption | None = None
    _attempt: UpstreamFactory | None = None
    # Of the present attempt, once it is connected.
    _connection: Connection | None = None
    # The header of the reply, while its body is relayed.
    _header: Header | None = None
    _begun_at = 0.0
    # The upstreams that have been tried, since the last body byte was received.
    _tried: tuple[Upstream, ...] = ()
    _losses = 0
    # Of a ``DOWNLOAD``.
    _rewriting: Rewriting | None = None
    _log: RetryLog | None = None
    # Of the last attempt that was connected.
    _entry: NATEntry | None = None
    _schedule: Schedule | None = None
    # When no other attempt may begin, and the present one ends: seconds of the clock.
    _until = 0.0
    # Of the next attempt, or of the end of the present one.
    _timer: IDelayedCall | None = None

    def __init__(self, client: Client, resources: Resources, command: Command) -> None:
        self.client = client
        self.resources = resources
        self.command = command
        self.sent = command
        self.state = State.QUEUED

    def proceed(self) -> None:
        """Begin an attempt on the upstream that is chosen, or wait for one that has a place."""
        upstreams = self.resources.upstreams
        upstream = upstreams.choose(self.command, self._tried)
        if upstream is None:
            upstreams.wait(self)
            return
        self.state = TRANSITIONS[self.state][_CONNECT]
        self.upstream = upstream
        if self.command.verb == _DOWNLOAD and self.resumption is None:
            self._rewriting = self._rewriting or Rewriting(self.command, self.resources.retries)
            self.sent = self._rewriting.command_for(upstream)
        upstream.begin()
        attempt = self._attempt = UpstreamFactory(self, upstream)
        attempt.connect()

    def refuse(self, reason: str) -> None:
        """End the command, or postpone it: no upstream has had a place for it in time."""
        self._stop_timer()
        now = self.resources.retries.clock.seconds()
        loss = Loss(Kind.FINAL, Outcome.ERROR, PROXY_ERROR + reason, UNAVAILABLE, reason)
        if self._schedule is not None and now + LONGEST_DELAY < self._until:
            self._begin_after(self._schedule.next_delay())
        else:
            self._end_with(loss, None)

    def cancel(self, outcome: Outcome, reason: str | None = None) -> bool:
        """End the attempt that is under way, or the wait for the next one.

        :return: whether the client's side has been, or is being, notified of the end.
        """
        attempt = self._attempt
        if self.state is State.ENDED:
            # By a subscriber of the event of its end.
            return True
        if attempt is not None and attempt.connected:
            self.resources.table.cancel_client(self.client.outbound, outcome)
            return True
        self._cancel_wait()
        self._end()
        self._publish_failure(Loss(Kind.FINAL, outcome, reason=reason), 0)
        return False

    # What the attempts call.

    def connected(self, connection: Connection) -> None:
        """Note that the present attempt has a connection, with an entry in the table."""
        self.state = TRANSITIONS[self.state][_CONNECTED]
        self._connection = connection
        if self.earlier is not None:
            self.resources.table.waiting.pop(self.earlier.command, None)

    def body_begun(self, header: Header) -> None:
        """Note that a relay moves the body, and that the rest of it can be requested."""
        self.state = TRANSITIONS[self.state][Event.BODY_BEGUN]
        if self._timer is not None:
            # The header was in time; the body has time-outs of its own.
            self._stop_timer()
        if self.resumption is None:
            self._header = header
            if self._log is not None:
                self._log.continued(self.upstream)

    def features_received(self, body: bytes) -> None:
        """Note whether the upstream supports ``GET``, of the body of a ``FEAT`` reply."""
        if can_get(parse_abilities(body)):
            self.resources.retries.get_supported.add(self.upstream)

    def resumed(self) -> None:
        """Note that the header of the rest of the body has been received, and is right."""
        resumption, retries = self.resumption, self.resources.retries
        assert resumption is not None
        self._stop_timer()
        self._tried = ()
        self._begun_at = retries.clock.seconds()
        retries.resumed += 1
        self.client.reply_resumed()
        assert self._log is not None
        self._log.resumed(resumption.offset)

    def finished(self) -> None:
        """Note that the whole reply has been passed on."""
        self.state = TRANSITIONS[self.state][_ENDED]
        self._connection = self._attempt = None
        self.upstream.end()
        if self.earlier is not None:
            self._stop_timer()
            if self._log is not None:
                self._log.continued(self.upstream)
            if self.resumption is not None:
                self.resources.retries.resumed_bytes += self.resumption.remaining

    def cancelled(self) -> None:
        """Note that the entry of the present attempt has been cancelled."""
        self.upstream.end()
        self._end()

    def failed(self, loss: Loss, entry: NATEntry | None) -> None:
        """Postpone the command, or end it with an error, after an attempt before its header.

        :param entry: of the attempt; ``None`` if it has not been connected.
        """
        counts = loss.counts
        if self.resumption is None:
            counts = is_failure_of_upstream(loss, self.sent, self.upstream.abilities)
        self._attempt_ended(loss, counts)
        delay = self._delay_after(loss)
        log = self._log = self._log or RetryLog(self.client)
        if delay is None:
            self._end_with(loss, entry)
            return
        log.postponed(loss, self.upstream)
        if self.resumption is None:
            self.resources.retries.retried += 1
        self._postpone(loss, entry, delay)

    def interrupted(self, loss: Loss, entry: NATEntry, remaining: int) -> None:
        """Continue the body by another attempt, or cut the client off.

        :param remaining: bytes that have not been received; all others have been passed on.
        """
        self._attempt_ended(loss, loss.counts)
        retries = self.resources.retries
        if loss.kind is not Kind.FINAL and retries.resume_for:
            self._resume_at(remaining)
        resumption = self.resumption
        if loss.kind is Kind.FINAL or resumption is None or not retries.resume_for:
            self._end_with(loss, entry)
            return
        now = retries.clock.seconds()
        self._until = now + retries.resume_for
        self._tried = ()
        if now - self._begun_at > LONGEST_DELAY:
            self._schedule = None
        delay = self._delay_after(loss)
        if delay is None:
            self._end_with(loss, entry)
            return
        retries.interrupted += 1
        self._log = self._log or RetryLog(self.client)
        self._log.interrupted = True
        self.client.reply_suspended()
        self._postpone(loss, entry, delay)

    def _resume_at(self, remaining: int) -> None:
        """Request the bytes that are missing of the body, if that is possible."""
        if self.resumption is None and self._header is not None and self.sent.verb == GET:
            with suppress(WireError):
                self.resumption = Resumption(self.sent, self._header)
        elif self.resumption is not None:
            self.resources.retries.resumed_bytes += self.resumption.remaining - remaining
        if self.resumption is not None:
            self.resumption.remaining = remaining
            self.sent = self.resumption.request()

    def _delay_after(self, loss: Loss) -> float | None:
        """Return the seconds until the next attempt; ``None`` if there must be none."""
        if loss.kind is Kind.FINAL:
            return None
        retries, client = self.resources.retries, self.client
        now = retries.clock.seconds()
        resuming = self.resumption is not None
        if not resuming:
            if not may_be_repeated(self.command, now - client.started_at):
                return None
            self._until = client.started_at + self.resources.replies.seconds
            if self.sent is not self.command and self._rewriting is not None:
                self._rewriting.failed(self.upstream, loss.kind)
        if loss.kind is Kind.UNSUPPORTED:
            # The command is sent as it is, at once: this is a reply.
            return 0.0 if now < self._until else None
        upstreams = self.resources.upstreams
        if loss.kind is Kind.LOST:
            self._losses += 1
            known = self.upstream in retries.get_supported
            if not resuming and self._losses >= most_losses(
                self.command, self.upstream.abilities, known, len(upstreams)
            ):
                return None
        self._tried = (*self._tried, self.upstream)
        other = upstreams.choose(self.command, self._tried)
        if other is not None and other not in self._tried:
            delay = 0.0
        else:
            # A server that restarts loses its connections before it refuses others. If all have
            # refused the command, and are known to be down, the error is clear, and at once.
            waits = self._losses or upstreams.may_respond(self._tried)
            if not resuming and not (retries.resume_for and waits):
                return None
            self._schedule = self._schedule or Schedule()
            # The upstreams that have not failed last are tried first.
            self._tried = (self.upstream,)
            delay = max(self._schedule.next_delay(), loss.wait)
        return delay if now + delay < self._until else None

    def _postpone(self, loss: Loss, entry: NATEntry | None, delay: float) -> None:
        """Begin another attempt after a delay, unless a subscriber ends the command."""
        self.state = TRANSITIONS[self.state][Event.POSTPONED]
        earlier, table = self.earlier, self.resources.table
        count, passed = (1, 0) if earlier is None else (earlier.attempts + 1, earlier.bytes)
        if entry is None:
            serial = self._publish_failure(loss._replace(outcome=Outcome.RETRIED), 0)
            self.earlier = Earlier(earlier.command if earlier else serial, count, passed)
        else:
            number = earlier.command if earlier else entry.serial
            self.earlier = Earlier(number, count, passed + entry.relayed)
            self._entry = entry
            table.remove(entry, Outcome.RETRIED, loss.reason or loss.message)
        if self.state is not State.ENDED:
            if self._entry is not None:
                table.waiting[self.earlier.command] = self._entry, self._kill
            self._begin_after(delay)

    def _begin_after(self, delay: float) -> None:
        self._timer = self.resources.retries.clock.callLater(delay, self._again)

    def _again(self) -> None:
        self._timer = None
        clock = self.resources.retries.clock
        left = max(0.0, self._until - clock.seconds())
        self._timer = clock.callLater(left, self._expire)
        try:
            self.proceed()
        except Exception:
            self.client.log.failure("cannot try a command again")
            self._expire()

    def _expire(self) -> None:
        """End the command: the present attempt has taken all the time that is left."""
        self._timer = None
        text = f"{PROXY_ERROR}the server did not reply in time"
        loss = Loss(Kind.FINAL, Outcome.TIMEOUT, text, GATEWAY_TIMEOUT, text)
        connection = self._connection
        if connection is not None:
            connection.fail(loss)
            return
        self._cancel_wait()
        self._end_with(loss, None)

    def _kill(self, outcome: Outcome, reason: str) -> None:
        """End the command between two attempts."""
        if not self.cancel(outcome, reason):
            self.client.reply_broken_off(outcome)

    def _cancel_wait(self) -> None:
        """Cancel what an attempt that is not connected waits for: a connection, or an upstream."""
        if self._attempt is None:
            self.resources.upstreams.cancel_wait(self)
        else:
            self._attempt.cancel()
            self.upstream.end()

    # The ends.

    def _attempt_ended(self, loss: Loss, counts: bool) -> None:
        self._stop_timer()
        self._connection = self._attempt = None
        if counts:
            self.upstream.failed(loss.reason or loss.message)
        self.upstream.end()

    def _end_with(self, loss: Loss, entry: NATEntry | None) -> None:
        """Send the error of an attempt in the reply's place; cut the client off inside a body."""
        begun = self.state in BEGUN
        self._end()
        client, line = self.client, b""
        if not begun:
            line = self.command.error_line(loss.message, loss.code)
            if self._log is not None:
                self._log.failed(loss, self.upstream)
        elif self.resumption is not None:
            loss = loss._replace(reason=loss.reason or loss.message)
            client.log.error(
                "the reply to {client} is not continued: {reason}",
                client=client.client_address,
                reason=loss.reason,
            )
        if entry is not None:
            if line:
                entry.write(line)
            self.resources.table.remove(entry, loss.outcome, loss.reason)
        else:
            if line:
                client.outbound.write(line)
            self._publish_failure(loss, len(line))
        if not begun:
            client.reply_finished()
            return
        client.reply_broken_off(loss.outcome)

    def _end(self) -> None:
        self.state = TRANSITIONS[self.state][_ENDED]
        self._connection = self._attempt = None
        if self.earlier is not None:
            self._stop_timer()
            self.resources.table.waiting.pop(self.earlier.command, None)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _publish_failure(self, loss: Loss, sent: int) -> int:
        client = self.client
        return self.resources.table.fail(
            client.client_address,
            self.command,
            client.started_at,
            loss.outcome,
            sent,
            loss.reason,
            client.identity,
            self.earlier,
        )
