"""Sentences about translations: who held a port, and what happened."""

from __future__ import annotations

from natproxy.cli.display.text import amount
from natproxy.cli.translations.texts import (
    address_text,
    bytes_text,
    client_text,
    command_text,
    number_text,
    precise,
    shown,
)
from natproxy.client.control.daemon import Event, LostEvents, MissingWorker
from natproxy.counts import counted
from natproxy.records.record import Record
from natproxy.records.times import show_local
from natproxy.records.whois import FOUND, UNKNOWN, Gap, WhoisQuery, WhoisReply

EVENT_WIDTH = len("registered")

HEALTH = ("upstream-up", "upstream-down")
"""Events that are no administrator's."""


def whois_lines(query: WhoisQuery, found: WhoisReply, live: bool = True) -> list[str]:
    """Return who held a port, a line for each translation, and what is not known.

    :param live: whether a daemon replied; else a journal, in which what is open may have ended.
    """
    when = _when(query)
    port = _port(query)
    if found.result == FOUND:
        lines = [holder(port, each, live) for each in found.translations]
        if found.gap is not None:
            lines.append(f"this may be incomplete: {gap_text(found.gap)}")
        return lines
    if found.result == UNKNOWN:
        reason = "" if found.gap is None else f": {gap_text(found.gap)}"
        lines = [f"{port}{when}: unknown{reason}"]
        return lines + [
            f"it may have been: {holder(port, each, live)}" for each in found.translations
        ]
    verb = "holds" if query.since is None else "held"
    lines = [f"{port}{when}: no client {verb} it"]
    if found.last is not None:
        lines.append(f"before: {holder(port, found.last)}")
    return lines


def holder(port: str, record: Record, live: bool = True) -> str:
    """Return which client held a port, when, and for which command.

    :param port: the port, with its address if the command line has one.
    :param live: see `whois_lines`.
    """
    client = client_text(record)
    if record.client is None:
        client = "a client that was erased"
    start = "an unknown time" if record.started is None else show_local(record.started)
    open_ = record.state in ("registered", "relaying")
    if open_ and live:
        when = f"is held by {client} since {start}"
    elif record.ended is None:
        when = f"was held by {client} from {start}, the end is not known"
    else:
        when = f"was held by {client} from {start} to {show_local(record.ended)}"
    upstream = address_text(record.upstream, record.upstream_port)
    facts = [command_text(record), f"from {upstream}"]
    if _repeated(record) or record.outcome == "retried":
        # The others are found by `natproxy history command NUMBER`.
        facts.append(f"attempt {record.attempt} of command {record.command}")
    if record.bytes is not None:
        facts.append(bytes_text(record))
    if open_:
        facts.append(shown(record.state))
    elif record.outcome is not None:
        facts.append(shown(record.outcome))
    if record.reason:
        facts.append(shown(record.reason))
    return f"{port} {when}: {', '.join(facts)}"


def whois_line(query: WhoisQuery, found: WhoisReply, live: bool = True) -> str:
    """Return who held a port, in one line; see `whois_lines`."""
    first = whois_lines(query, found, live)[0]
    others = len(found.translations) - 1
    return f"{first} (and {others} more)" if found.result == FOUND and others else first


def gap_text(gap: Gap) -> str:
    """Return of which time the record is not complete, and why."""
    cause = shown(gap.cause)
    if gap.since is None and gap.until is None:
        return cause
    if gap.since is None:
        assert gap.until is not None
        return f"there is no record before {show_local(gap.until)} ({cause})"
    begin = show_local(gap.since)
    if gap.until is None:
        return f"there is no record after {begin} ({cause})"
    return f"the record has a gap from {begin} to {show_local(gap.until)} ({cause})"


def event_line(event: Event, several: bool = False) -> str:
    """Return an event, or what was lost of them, in one line.

    :param several: see `number_text`.
    """
    if isinstance(event, MissingWorker):
        time = "-" if event.time is None else show_local(event.time)
        return f"{time}  {'missing':{EVENT_WIDTH}}  {event}"
    if isinstance(event, LostEvents):
        return f"{'lost':{EVENT_WIDTH}}  {_lost(event)}"
    time = "-" if event.time is None else show_local(event.time)
    return f"{time}  {shown(event.event):{EVENT_WIDTH}}  {_about(event, several)}"


def _lost(event: LostEvents) -> str:
    first = f"{event.worker}:{event.first}"
    if event.last is None:
        run = "another run of the daemon" if event.boot is None else f"the run {shown(event.boot)}"
        return f"events from {first} of {run} are no longer there, if it had any"
    events = f"{counted(event.number, 'event')} {'is' if event.number == 1 else 'are'}"
    return f"{events} no longer there: {first} to {event.worker}:{event.last}"


def _about(event: Record, several: bool) -> str:
    """Return what an event is about."""
    if event.client is None:
        if event.event in HEALTH:
            return shown(event.reason)
        target = f"#{number_text(event, several)} " if event.serial else ""
        reason = f": {shown(event.reason)}" if event.reason else ""
        return f"{target}by uid {shown(event.uid)} (pid {shown(event.pid)}){reason}"
    port = "no port" if event.nat_port is None else f"port {event.nat_port}"
    client = client_text(event)
    text = f"#{number_text(event, several)} {client} {port} {command_text(event)}"
    facts = []
    if _repeated(event):
        first = number_text(event._replace(serial=event.command), several)
        facts.append(f"attempt {event.attempt} of #{first}")
    if event.event == "relaying" and event.promised:
        facts.append(f"{amount(event.promised)} to relay")
    if event.event in ("removed", "failed"):
        facts += [shown(event.outcome), bytes_text(event)]
    if event.total is not None:
        facts.append(f"{amount(event.total)} by all attempts")
    if event.event != "registered" and event.duration is not None:
        facts.append(precise(event.duration))
    if event.reason:
        facts.append(shown(event.reason))
    return f"{text}: {', '.join(facts)}" if facts else text


def _repeated(record: Record) -> bool:
    """Return whether it is another attempt of a command than the first."""
    return record.attempt is not None and record.attempt > 1


def _port(query: WhoisQuery) -> str:
    if query.nat is None:
        return f"port {query.port}"
    return f"port {address_text(shown(query.nat), query.port)}"


def _when(query: WhoisQuery) -> str:
    if query.since is None:
        return " now"
    begin = show_local(query.since)
    if query.until is None or query.until - query.since <= 1:
        return f" at {begin}"
    return f" between {begin} and {show_local(query.until)}"
