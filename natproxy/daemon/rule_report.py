"""What the rules of a configuration decide about a command, for ``natproxy config check --as``.

No daemon is needed, and none is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from natproxy.access import Caller
from natproxy.access.networks import is_unix, place_of
from natproxy.access.rules import Rules
from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.daemon.config_report import CONFIGS
from natproxy.protocol import encode_name, parse_command, printable

_KEYS = ("client", "identity")


class RuleReport(NamedTuple):
    """What is decided about a command, with the members of the record in JSON.

    :ivar daemon: ``proxy`` or ``fileserver``.
    :ivar client: address of the client, or ``unix``.
    :ivar identity: of the client; ``None`` if it has none.
    :ivar command: without secrets.
    :ivar decided_by: see `natproxy.access.decision.Decision`.
    :ivar reason: the same for people.
    :ivar name: the name of several that is denied, as it is encoded on the wire.
    :ivar not_matching: a line for each rule before the one that decides.
    """

    daemon: str
    client: str
    identity: str | None
    command: str
    allowed: bool
    decided_by: str
    reason: str
    name: str | None
    not_matching: list[str]

    def lines(self) -> list[str]:
        """Return the lines for people."""
        who = self.client if self.identity is None else f"{self.client} ({self.identity})"
        decision = "allowed" if self.allowed else "denied"
        name = "" if self.name is None else f" for the name {self.name}"
        by = self.reason
        if self.decided_by.isdigit():
            by = f"by {by}"
        first = f"{self.daemon}: '{self.command}' of {who} is {decision}{name}: {by}"
        return [first, *(f"  {line}" for line in self.not_matching)]


def report_decision(
    daemon: str,
    who: str,
    command: str,
    environment: Mapping[str, str] | None = None,
    file: str | None = None,
) -> RuleReport:
    """Return what the rules of a daemon's settings decide.

    :param daemon: ``proxy`` or ``fileserver``.
    :param who: the client: ``client=10.0.0.5``, perhaps with ``,identity=alice``.
    :param command: a line as a client sends it.
    :param environment: ``os.environ`` by default.
    :param file: TOML file; by default, the one that the environment names.
    :raises SettingError: if a setting is wrong.
    :raises ValueError: if ``who`` or the command is malformed; the text is for people.
    """
    caller = _caller_of(who)
    line = os.fsencode(command)
    parsed = None if b"\n" in line else parse_command(line)
    if parsed is None:
        raise ValueError("a command of one line is needed, such as 'GET a.txt'")
    config = CONFIGS[daemon].load(environment=environment, file=file)
    rules = Rules(config.rules, config.rules_default == "allow")
    decision = rules.decide(caller, parsed)
    return RuleReport(
        daemon,
        caller.address.host,
        caller.identity,
        printable(parsed.shown.line),
        decision.allowed,
        decision.decided_by,
        decision.reason,
        None if decision.name is None else encode_name(decision.name).decode("ascii"),
        rules.explain(caller, parsed),
    )


def _caller_of(who: str) -> Caller:
    """Return the client that a text describes.

    :raises ValueError: if it is malformed.
    """
    # An identity may contain commas.
    first, _, rest = who.partition(",")
    words = dict(each.partition("=")[::2] for each in (first, rest) if each)
    host = words.get("client", "")
    if not set(words) <= set(_KEYS) or not (is_unix(host) or place_of(host)):
        raise ValueError(f"--as {who}: client=ADDRESS is needed, perhaps with ,identity=NAME")
    port = FIRST_STAND_IN_PORT if is_unix(host) else 0
    return Caller.at(Address(host, port), words.get("identity"))
