"""``config check --as`` and a daemon read one file, and decide the same about each command."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IAddress
from twisted.internet.threads import deferToThread

from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.parts import prepare_rules
from natproxy.daemon.rule_report import report_decision
from natproxy.tokens.entries import format_entry, new_token
from tests.support.exchange import exchange
from tests.support.loopback import HOST

RULE_SETS = 40
COMMANDS = 12

CLIENTS = (HOST, "127.0.0.2", "127.0.5.6", "unix")
NETWORKS = ("127.0.0.1", "127.0.0.0/30", "127.0.4.0/22", "::ffff:127.0.0.2", "unix", "10.0.0.0/8")
IDENTITIES = ("alice", "bob@ops.example")
IDENTITY_PATTERNS = ("alice", "*@ops.example", "a*", "carol", "*")
VERBS = ("LIST", "DOWNLOAD", "STAT", "GET", "LS", "PACK", "HASH")
OTHERS = (b"FEAT", b"WHO", b"VIA", b"sTaT", b" get", b"list", b"LISTS", b"VIA " + b"0" * 32)
PATTERNS = (
    "secret",
    "/secret",
    "secret/",
    "*.key",
    "**/deep",
    "/a/**/k",
    "s?cret",
    "[a-c]",
    "/",
    "*",
    "ä",
    "b c",
    "%73ecret",
)
COMPONENTS = (
    *(b"secret", b"Secret", b"%73ecret", b"%53ecret", b"s%65cret", b"a", b"b c", b"b%20c"),
    *(b".", b"..", b"%2e", b"%2E%2e", b"x.key", b"x%2ekey", b"deep", b"k", b"", b"%", b"%7"),
    *(b"%00", b"\xff", b"%ff", "ä".encode(), b"%c3%a4", b"\xc3", b"\x0b", b"secret\xc2\xa0"),
)
ENDS = (b"", b"", b"", b" ", b"\t", b"\r", b" depth=inf", b" offset=0", b" x=%2e", b" secret")


def rule(random: Random) -> Iterator[str]:
    """Yield the lines of a random rule."""
    yield "[[fileserver.rules]]"
    yield f"action = {json.dumps(random.choice(['allow', 'deny']))}"
    for key, values, likely in (
        ("clients", NETWORKS, 0.3),
        ("identities", IDENTITY_PATTERNS, 0.2),
        ("verbs", VERBS, 0.3),
        ("names", PATTERNS, 0.6),
    ):
        if random.random() < likely:
            some = random.sample(values, random.randint(1, 3))
            yield f"{key} = {json.dumps(some, ensure_ascii=False)}"


def settings(random: Random) -> str:
    """Return a file with random rules."""
    lines = ["[fileserver]", f"rules-default = '{random.choice(['allow', 'deny'])}'"]
    for _ in range(random.randint(0, 5)):
        lines += rule(random)
    return "\n".join(lines) + "\n"


def name(random: Random) -> bytes:
    slash = random.choice([b"/", b"/", b"//", b"%2f", b"/./"])
    return slash.join(random.choices(COMPONENTS, k=random.randint(0, 3)))


def command(random: Random) -> bytes:
    """Return a random line, which is not blank."""
    verb = random.choice(OTHERS) if random.random() < 0.15 else random.choice(VERBS).encode()
    names = [name(random) for _ in range(random.choice([0, 1, 1, 1, 2]))]
    return b" ".join([verb, *names]) + random.choice(ENDS)


def reply(port: int, path: str, client: str, sent: bytes) -> bytes:
    """Return everything that is received after lines from an address."""
    if client == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(path)
    else:
        connection = socket.create_connection((HOST, port), 30, (client, 0))
    with connection:
        return exchange(connection, sent)


@pytest.mark.parametrize("seed", range(3))
@pytest_twisted.ensureDeferred
async def test_command_line_decides_as_the_daemon(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    (tmp_path / "served").mkdir()
    tokens = {identity: new_token(identity) for identity in IDENTITIES}
    (tmp_path / "tokens").write_text(
        "".join(format_entry(entry) + "\n" for _, entry in tokens.values())
    )
    (tmp_path / "tokens").chmod(0o600)
    path = str(tmp_path / "s")
    server = make_file_server(
        reactor,
        FileServerConfig(
            files=str(tmp_path / "served"),
            control="none",
            listen=(f"tcp:0:interface={HOST}", f"unix:{path}"),
            tokens=str(tmp_path / "tokens"),
        ),
    )
    file = tmp_path / "rules.toml"
    server.startService()
    try:
        address: IAddress = server.ports[0].getHost()
        port: int = address.port  # type: ignore[attr-defined]
        decided = {True: 0, False: 0}
        for _ in range(RULE_SETS):
            text = settings(random)
            file.write_text(text)
            config = FileServerConfig.load({}, environment={}, file=str(file))
            prepare_rules(server.factory, config)()
            for _ in range(COMMANDS):
                client = random.choice(CLIENTS)
                identity = random.choice([None, *IDENTITIES])
                line = command(random)
                who = f"client={client}" + (f",identity={identity}" if identity else "")
                report = report_decision("fileserver", who, os.fsdecode(line), {}, str(file))
                sent = b"" if identity is None else b"AUTH %b\n" % tokens[identity][0].encode()
                received = await deferToThread(reply, port, path, client, sent + line + b"\n")
                if identity is not None:
                    accepted, _, received = received.partition(b"\n")
                    assert accepted == f"OK identity={identity}".encode()
                denied = received.startswith((b"ERR 403 forbidden", b"ERR forbidden"))
                assert denied is not report.allowed, (text, who, line, report, received)
                if report.name is not None:
                    assert received == b"ERR 403 forbidden name=%b\n" % (
                        report.name.encode() or b"."
                    ), (text, line)
                decided[report.allowed] += 1
        assert min(decided.values()) > 50
    finally:
        await server.stopService()
