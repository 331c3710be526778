"""The files of ``deploy/`` in use: application files, units, settings, socket activation."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from natproxy.cli.commands import COMMANDS
from natproxy.cli.parsing import program_parser
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.records.places import journal_candidates, socket_candidates
from tests.support.exchange import exchange_with
from tests.support.paths import ROOT
from tests.support.twistd import (
    DEPLOY,
    LIMIT,
    TWISTD,
    Daemon,
    application_file,
    environment,
    refused_start,
    running,
)

INSTALLED = "/opt/natproxy/.venv/bin/twistd"
INSTALLED_CLIENT = "/opt/natproxy/.venv/bin/natproxy"
UNITS = ["natproxy", "natproxy-activated", "natproxy-fileserver"]
SHIP = "natproxy-ship"

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)
needs_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None or not socket.has_dualstack_ipv6(),
    reason="there is no systemd-socket-activate, or no IPv6",
)


def test_port_of_the_default_in_use_names_the_variable(tmp_path: Path) -> None:
    """An application file has no options."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint = f"tcp:{other.getsockname()[1]}"
        text = (DEPLOY / "natproxy.tac").read_text()
        assert "ProxyConfig.load()" in text
        changed = tmp_path / "changed.tac"
        default = f"dataclasses.replace(ProxyConfig.load(), listen=('{endpoint}',))"
        changed.write_text("import dataclasses\n" + text.replace("ProxyConfig.load()", default))
        done = subprocess.run(
            [*TWISTD, "--pidfile=", "-ny", str(changed)],
            cwd=tmp_path,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"cannot listen on {endpoint}: Address already in use;"
        " choose another one with $NATPROXY_PROXY_LISTEN\n"
    )


def start_file_server(stack: ExitStack, cwd: Path) -> tuple[Daemon, str]:
    """Run the file server's application file; return it and its port."""
    (cwd / "served").mkdir()
    (cwd / "served" / "one file").write_bytes(b"its content")
    server = stack.enter_context(
        running(
            application_file("fileserver"),
            cwd,
            NATPROXY_FILESERVER_LISTEN="tcp:0:interface=127.0.0.1",
            NATPROXY_FILESERVER_FILES="served",
        )
    )
    return server, server.await_line(r"starting on (\d+)")


def replies_to(address: tuple[str, int], commands: bytes) -> bytes:
    """Send commands, close the sending side, and return all replies."""
    return exchange_with(*address, commands)


def test_application_files_work_together(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, server_port = start_file_server(stack, tmp_path)
        proxy = stack.enter_context(
            running(
                application_file("natproxy"),
                tmp_path,
                NATPROXY_PROXY_LISTEN=f"tcp:0:interface=127.0.0.1 unix:{tmp_path}/proxy.sock",
                NATPROXY_PROXY_UPSTREAM=f"tcp:127.0.0.1:{server_port}",
            )
        )
        proxy_port = int(proxy.await_line(r"starting on (\d+)"))
        proxy.await_line(r"starting on '(.*proxy.sock)'")
        reply = replies_to(("127.0.0.1", proxy_port), b"LIST\nDOWNLOAD one file\n")
        assert reply == b"OK\none file\nEND\nOK 11\nits content"
        nat_port = proxy.await_line(r"LIST: completed.* from port (\d+)")
        assert server.await_line(r"127\.0\.0\.1:(\d+) LIST: completed") == nat_port
        assert proxy.end() == 0
        assert server.end() == 0


PREFIXES = {"natproxy": "NATPROXY_PROXY", "fileserver": "NATPROXY_FILESERVER"}


@pytest.mark.parametrize("name", PREFIXES)
def test_application_file_reports_in_one_line_that_the_port_is_in_use(
    name: str, tmp_path: Path
) -> None:
    variable = f"{PREFIXES[name]}_LISTEN"
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        listen = f"tcp:{occupant.getsockname()[1]}:interface=127.0.0.1"
        error = refused_start(name, tmp_path, **{variable: listen})
    assert error == (
        f"cannot listen on {listen}: Address already in use; choose another one with ${variable}\n"
    )


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("natproxy", "LISTEN", "bogus:1"), ("fileserver", "TIMEOUT", "0")],
)
def test_application_file_reports_in_one_line_which_setting_is_wrong(
    name: str, setting: str, value: str, tmp_path: Path
) -> None:
    variable = f"{PREFIXES[name]}_{setting}"
    error = refused_start(name, tmp_path, **{variable: value})
    assert re.fullmatch(rf"{name}\.tac: \${variable} {value}: [^\n]+\n", error), error


def test_application_file_does_not_create_the_directory_that_is_named(tmp_path: Path) -> None:
    error = refused_start("fileserver", tmp_path, NATPROXY_FILESERVER_FILES="typo")
    assert error.startswith("fileserver.tac: $NATPROXY_FILESERVER_FILES typo: no such directory")
    assert list(tmp_path.iterdir()) == []


def test_application_file_creates_the_default_directory(tmp_path: Path) -> None:
    listen = "tcp:0:interface=127.0.0.1"
    with running(
        application_file("fileserver"), tmp_path, NATPROXY_FILESERVER_LISTEN=listen
    ) as server:
        server.await_line(r"starting on (\d+)")
    assert (tmp_path / "files").is_dir()


@pytest.mark.parametrize("name", PREFIXES)
def test_application_file_uses_every_kind_of_setting(name: str, tmp_path: Path) -> None:
    variables = {"LISTEN": "tcp:0:interface=127.0.0.1", "LOG": "log", "MAX_CLIENTS": "7"}
    variables |= {"MAX_CLIENTS_PER_HOST": "3", "FIRST_COMMAND_TIMEOUT": "0.2"}
    settings = {f"{PREFIXES[name]}_{variable}": value for variable, value in variables.items()}
    with running(application_file(name), tmp_path, **settings) as daemon:
        started = None
        while started is None:
            text = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
            started = re.search(
                r"listens on 127\.0\.0\.1:(\d+); clients at once: 7, of one host: 3", text
            )
            assert daemon.process.poll() is None
            time.sleep(0.02)
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ", text)
        with socket.create_connection(("127.0.0.1", int(started[1])), LIMIT) as client:
            # It sends no command.
            assert client.recv(1) == b""


@needs_activate
def test_socket_activated_proxy_serves_the_client_that_started_it(tmp_path: Path) -> None:
    unit = (DEPLOY / "natproxy-activated.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command is not None
    program, *arguments = shlex.split(command[1])
    assert program == INSTALLED
    name = re.search(r"^FileDescriptorName=(.*)$", socket_unit(), re.MULTILINE)
    assert name is not None
    with ExitStack() as stack:
        _, server_port = start_file_server(stack, tmp_path)
        upstream = arguments.index("tcp:127.0.0.1:9001")
        arguments[upstream] = f"tcp:127.0.0.1:{server_port}"
        port = free_port()
        activate = ["systemd-socket-activate", "-l", str(port), f"--fdname={name[1]}"]
        # It passes no other variables on: without these, the user's own places would be used.
        names = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY")
        places = [f"{name}={os.environ[name]}" for name in names]
        imports = [word for each in (f"PYTHONPATH={ROOT}", *places) for word in ("-E", each)]
        proxy = stack.enter_context(running([*activate, *imports, *TWISTD, *arguments], tmp_path))
        proxy.await_line("(Listening on)")
        # An IPv6 socket that takes IPv4 clients too.
        assert replies_to(("127.0.0.1", port), b"LIST\n") == b"OK\none file\nEND\n"
        assert replies_to(("::1", port), b"DOWNLOAD one file\n") == b"OK 11\nits content"
        assert proxy.end() == 0


@needs_analyze
@pytest.mark.parametrize(
    "unit", [*(f"{unit}.service" for unit in (*UNITS, SHIP)), "natproxy-activated.socket"]
)
def test_unit_is_understood_by_systemd(unit: str, tmp_path: Path) -> None:
    for file in DEPLOY.glob("natproxy*.*"):
        if file.suffix in (".service", ".socket"):
            text = file.read_text()
            for program in (INSTALLED, INSTALLED_CLIENT):
                text = text.replace(program, sys.executable)
            (tmp_path / file.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    errors = [line for line in done.stderr.splitlines() if "natproxy" in line]
    assert (done.returncode, errors) == (0, [])


@needs_analyze
@pytest.mark.parametrize("unit", [*UNITS, SHIP])
def test_unit_exposes_little(unit: str) -> None:
    analyze = ("systemd-analyze", "security", "--offline=true", "--threshold=15")
    done = subprocess.run(
        [*analyze, str(DEPLOY / f"{unit}.service")], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_shipper_has_the_user_and_the_directory_of_the_proxy() -> None:
    text = (DEPLOY / f"{SHIP}.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    proxy = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "natproxy.service").read_text(), re.M))
    assert settings["StateDirectory"] == proxy["StateDirectory"]
    # The user of a unit without User= has its name.
    assert (settings["User"], settings["DynamicUser"]) == ("natproxy", proxy["DynamicUser"])
    # What is left of the line before the line break.
    (line,) = re.findall(r"^ExecStart=(.*?[^\\])$", text, re.MULTILINE | re.DOTALL)
    words = shlex.split(line.replace("\\\n", " "))
    arguments = program_parser(COMMANDS).parse_args(words[1:])
    assert (arguments.command, arguments.action) == ("journal", "ship")
    assert ":" not in arguments.to.partition("//")[2].partition("@")[0]


@pytest.mark.parametrize("unit", UNITS)
def test_daemon_of_a_unit_has_more_time_to_stop_than_to_drain(unit: str) -> None:
    text = (DEPLOY / f"{unit}.service").read_text()
    drain = re.search(r"--drain (\d+)", text)
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert drain is not None
    assert stop is not None
    assert int(stop[1]) > int(drain[1])


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_notified_by_a_daemon_in_the_foreground(unit: str) -> None:
    text = (DEPLOY / f"{unit}.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert settings["Type"] == "notify"
    assert int(settings["WatchdogSec"]) >= 10
    assert settings["ExecStart"].startswith(f"{INSTALLED} -n ")
    # Another process than the main one may not notify.
    assert "NotifyAccess" not in settings
    program, *arguments = shlex.split(settings["ExecReload"])
    assert program == INSTALLED_CLIENT
    assert program_parser(COMMANDS).parse_args(arguments).selected.name == "reload"


@pytest.mark.parametrize("unit", UNITS)
def test_unit_has_private_directories_where_the_commands_look(unit: str) -> None:
    text = (DEPLOY / f"{unit}.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    runtime = f"/run/{settings['RuntimeDirectory']}"
    assert runtime in socket_candidates({}, 0)
    assert settings["RuntimeDirectoryMode"] == "0700"
    if unit != "natproxy-fileserver":
        state = f"/var/lib/{settings['StateDirectory']}"
        assert state in journal_candidates({}, 0)
        assert settings["StateDirectoryMode"] == "0700"
        # They hide /proc/self/net and the users behind a socket.
        assert "PrivateUsers" not in settings
        assert "ProcSubset" not in settings


def socket_unit() -> str:
    return (DEPLOY / "natproxy-activated.socket").read_text()


def free_port() -> int:
    """Return a port that is free; systemd-socket-activate does not accept port 0."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("config", [ProxyConfig, FileServerConfig])
def test_example_of_a_file_is_valid(config: type[DaemonConfig]) -> None:
    path = str(DEPLOY / "natproxy.toml")
    loaded = config.load(environment={}, file=path)
    assert loaded.source_of("listen").name == f"{path}: {config.table}.listen"


def test_application_files_read_one_file_for_both(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "both.toml").write_text(
        '[proxy]\nlisten = "unix:proxy"\nupstream = "unix:server"\n'
        '[fileserver]\nlisten = "unix:server"\nfiles = "served"\n'
    )
    with ExitStack() as stack:
        for name, prefix in PREFIXES.items():
            settings = {f"{prefix}_CONFIG": "both.toml"}
            daemon = stack.enter_context(running(application_file(name), tmp_path, **settings))
            daemon.await_line(r"listens on (unix:\w+)")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(tmp_path / "proxy"))
            client.sendall(b"LIST\n")
            client.settimeout(LIMIT)
            assert client.recv(100) == b"OK\nEND\n"
