"""Control sockets and journals of daemons that run as processes: start, end, kill, privileges."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.twistd import (
    LIMIT,
    TWISTD,
    Daemon,
    application_file,
    environment,
    running,
)

LISTEN = "--listen=tcp:0:interface=127.0.0.1"


class UnixConnection(http.client.HTTPConnection):
    """A connection to the control socket at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__("natproxy", timeout=LIMIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        self.sock.connect(os.fspath(self._path))


def request(path: Path, method: str, target: str) -> tuple[int, Any]:
    """Send a request to a control socket; return the status and the object of the response."""
    connection = UnixConnection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def get(path: Path, target: str) -> Any:
    """Return the object that a control socket returns."""
    status, members = request(path, "GET", target)
    assert status == 200, members
    return members


class Places:
    """Directories of control sockets and journals, with short paths."""

    def __init__(self, path: Path) -> None:
        self.run = path / "run"
        self.state = path / "state"
        self.work = path / "work"
        for directory in (self.run, self.work):
            directory.mkdir()
        (self.work / "files").mkdir()
        (self.work / "files" / "a").write_bytes(b"content\n")
        self.settings = {
            "RUNTIME_DIRECTORY": os.fspath(self.run),
            "STATE_DIRECTORY": os.fspath(self.state),
        }

    def socket(self, name: str) -> Path:
        return self.run / f"{name}.sock"

    def start(self, stack: ExitStack, *arguments: str) -> Daemon:
        """Run a daemon by ``twistd`` in the foreground."""
        command = [*TWISTD, "-n", "--pidfile=", *arguments]
        return stack.enter_context(running(command, self.work, **self.settings))

    def proxy(self, stack: ExitStack, *arguments: str) -> tuple[Daemon, int]:
        """Run a proxy; return it and its port, once its control socket is open."""
        proxy = self.start(stack, "natproxy", LISTEN, *arguments)
        port = int(proxy.await_line(r"ProxyFactory starting on (\d+)"))
        proxy.await_line("(control socket: )")
        return proxy, port


@pytest.fixture
def places() -> Iterator[Places]:
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield Places(path)
    shutil.rmtree(path)


def test_socket_and_journal_are_for_the_user_alone_and_go_with_the_daemon(places: Places) -> None:
    with ExitStack() as stack:
        proxy, port = places.proxy(stack)
        path = places.socket(f"proxy-{port}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        status = get(path, "/v1/status")
        assert status["pid"] == proxy.process.pid
        assert status["listen"] == [f"127.0.0.1:{port}"]
        journal = places.state / f"proxy-{port}"
        assert status["journal"]["directory"] == os.fspath(journal)
        assert stat.S_IMODE(journal.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in journal.iterdir()} == {0o600}
        assert get(path, "/readyz") == {"ready": True}
        assert proxy.end() == 0
        assert list(places.run.iterdir()) == []


def test_socket_that_took_the_place_of_the_daemons_is_left(places: Places) -> None:
    with ExitStack() as stack:
        proxy, port = places.proxy(stack)
        path = places.socket(f"proxy-{port}")
        # The reactor's handlers are installed when it runs: it has replied to a request.
        get(path, "/readyz")
        path.unlink()
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(os.fspath(path))
        proxy.process.send_signal(signal.SIGTERM)
        proxy.await_line("(control socket .* was removed or replaced)")
        assert proxy.process.wait(LIMIT) == 0
        assert list(places.run.iterdir()) == [path]


def test_drain_shows_the_last_command_to_its_end(places: Places) -> None:
    """The socket is there, and not ready, until the last client has finished."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(LIMIT)
        proxy, port = places.proxy(
            stack, f"--upstream=tcp:127.0.0.1:{upstream.getsockname()[1]}", "--journal=kept"
        )
        path = places.socket(f"proxy-{port}")
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT))
        client.sendall(b"DOWNLOAD a\n")
        connection, _ = upstream.accept()
        with connection:
            connection.recv(100)
            assert request(path, "POST", "/v1/drain")[0] == 202
            while not get(path, "/v1/status")["draining"]:
                time.sleep(0.01)
            status, members = request(path, "GET", "/readyz")
            assert (status, members["error"]) == (503, "the daemon is draining")
            (entry,) = get(path, "/v1/table")
            connection.sendall(b"OK 3\nend")
        assert client.recv(100) == b"OK 3\nend"
        assert client.recv(100) == b""
        assert proxy.process.wait(LIMIT) == 0
    rows = subprocess.run(
        [
            sys.executable,
            "-c",
            "import glob, sqlite3\n"
            "for path in glob.glob('kept/*.segment'):\n"
            "    print(*sqlite3.connect(path).execute("
            "'select serial, nat_port, outcome from translations'))\n",
        ],
        cwd=places.work,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert rows.stdout == f"({entry['serial']}, {entry['nat_port']}, 'completed')\n", rows


def test_daemon_that_was_killed_leaves_nothing_in_the_way(places: Places) -> None:
    with ExitStack() as stack:
        proxy, _ = places.proxy(stack, "--name=edge")
        path = places.socket("edge")
        boot = get(path, "/v1/status")["boot"]
        proxy.process.kill()
        proxy.process.wait()
        assert path.exists()
        proxy, _ = places.proxy(stack, "--name=edge")
        status = get(path, "/v1/status")
        assert status["pid"] == proxy.process.pid
        assert status["boot"] != boot
        assert proxy.end() == 0


def refused(places: Places, *arguments: str) -> str:
    """Run a daemon that cannot start; return what it writes to stderr."""
    done = subprocess.run(
        [*TWISTD, *arguments],
        cwd=places.work,
        env=environment(places.settings),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_name_of_a_daemon_that_runs_is_an_error_in_one_line(places: Places) -> None:
    with ExitStack() as stack:
        proxy, _ = places.proxy(stack, "--name=edge")
        pid = proxy.process.pid
        error = f"name edge: in use by process {pid}; choose another --name\n"
        second = ("natproxy", LISTEN, "--name=edge")
        assert refused(places, "-n", "--pidfile=", *second) == error
        # In the background, twistd passes the error to the terminal.
        assert error.strip() in refused(places, "--pidfile=", *second)
        assert get(places.socket("edge"), "/v1/status")["pid"] == proxy.process.pid


def test_path_that_cannot_be_used_is_an_error_in_one_line(places: Places) -> None:
    path = places.work.resolve() / "missing" / "a.sock"
    error = refused(places, "-n", "--pidfile=", "natproxy", LISTEN, "--control=missing/a.sock")
    assert error == f"--control {path}: No such file or directory\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_files_belong_to_the_user_that_the_daemon_runs_as(places: Places) -> None:
    user = pwd.getpwnam("nobody")
    for directory in (places.run, places.state, places.work):
        directory.mkdir(exist_ok=True)
        os.chown(directory, user.pw_uid, user.pw_gid)
    # What is imported later may not be readable for the user, where root's interpreter is used.
    program = "import importlib.readers, natproxy.daemon.proxy; from twisted.scripts.twistd import"
    command = [sys.executable, "-c", f"{program} run; run()", "-n", "--pidfile="]
    command += [f"--uid={user.pw_uid}", f"--gid={user.pw_gid}"]
    with running(
        [*command, "natproxy", LISTEN, "--name=edge"], places.work, **places.settings
    ) as proxy:
        proxy.await_line("(control socket: )")
        for path in (places.socket("edge"), places.state / "edge"):
            assert path.stat().st_uid == user.pw_uid
        assert get(places.socket("edge"), "/v1/status")["name"] == "edge"
        assert proxy.end() == 0
        assert list(places.run.iterdir()) == []


def test_application_file_has_them_too(places: Places) -> None:
    settings = {
        "NATPROXY_PROXY_LISTEN": "tcp:0:interface=127.0.0.1",
        "NATPROXY_PROXY_NAME": "from-tac",
        **places.settings,
    }
    with running(application_file("natproxy"), places.work, **settings) as proxy:
        proxy.await_line("(control socket: )")
        assert get(places.socket("from-tac"), "/v1/status")["name"] == "from-tac"
        assert (places.state / "from-tac").is_dir()
        assert proxy.end() == 0


def test_up_has_one_socket_and_no_journal(places: Places) -> None:
    command = [sys.executable, "-m", "natproxy", "up", LISTEN]
    command += ["--fileserver-listen=tcp:0:interface=127.0.0.1", "--web=tcp:0"]
    with running(command, places.work, **places.settings) as up:
        port = up.await_line(r"^proxy +127\.0\.0\.1:(\d+)$")
        # Every interface is shown as loopback, which a browser can open.
        page = up.await_line(r"^page +(http://127\.0\.0\.1:\d+/)$")
        # The commands find the socket in its usual place.
        assert up.await_line("natproxy( top.*)$") == " top"
        up.await_line("(Ctrl-C ends it)")
        (path,) = places.run.glob("*.sock")
        assert path == places.socket(f"up-{port}")
        status = get(path, "/v1/status")
        assert status["journal"] is None
        assert [
            f"http://{address.replace('0.0.0.0', '127.0.0.1')}/" for address in status["web"]
        ] == [page]
        assert request(path, "POST", "/v1/drain")[0] == 202
        assert up.process.wait(LIMIT) == 0
    assert not places.state.exists()


def test_log_of_twistd_is_opened_again(places: Places) -> None:
    with ExitStack() as stack:
        arguments = ("--logfile=log", "natproxy", LISTEN, "--name=edge", "--journal=none")
        proxy = places.start(stack, *arguments)
        log = places.work / "log"
        deadline = time.monotonic() + LIMIT
        while not (log.exists() and "control socket: " in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # The reactor's handlers are installed when it runs: it has replied to a request.
        get(places.socket("edge"), "/readyz")
        log.rename(places.work / "log.rotated")
        proxy.process.send_signal(signal.SIGUSR1)
        while not (log.exists() and "has been opened again" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not (places.work / "log.1").exists()
        assert proxy.end() == 0


def test_ident_and_the_comparison_of_the_table(places: Places) -> None:
    """The upstream is played: it holds the reply while it looks up the client."""
    with ExitStack() as stack:
        upstream = stack.enter_context(socket.create_server(("127.0.0.9", 0)))
        upstream_port = upstream.getsockname()[1]
        proxy, port = places.proxy(
            stack,
            f"--upstream=tcp:127.0.0.9:{upstream_port}",
            "--ident=tcp:0:interface=127.0.0.1",
        )
        ident = int(proxy.await_line(r"ident service: 127\.0\.0\.1:(\d+)"))
        path = places.socket(f"proxy-{port}")
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        client.sendall(b"LIST\n")
        connection, (_, nat_port) = upstream.accept()
        with connection:
            pair = f"{nat_port}, {upstream_port}"
            for source, expected in (
                ("127.0.0.9", f"{pair} : USERID : OTHER : 127.0.0.1:{client.getsockname()[1]}"),
                ("127.0.0.8", f"{pair} : ERROR : NO-USER"),
            ):
                with socket.create_connection(("127.0.0.1", ident), 10, (source, 0)) as query:
                    query.sendall(pair.encode() + b"\r\n")
                    assert query.makefile().readline() == expected + "\n"
            compared = get(path, "/v1/reconcile")
            assert (compared["result"], compared["rows"], compared["sockets"]) == ("same", 1, 1)
            connection.sendall(b"OK\nEND\n")
        assert client.recv(100) == b"OK\nEND\n"
        assert get(path, "/v1/reconcile")["differences"] == 0


def test_whois_finds_what_was_there_before_a_kill(places: Places) -> None:
    with ExitStack() as stack:
        server = places.start(stack, "fileserver", LISTEN, "--control=none")
        upstream = server.await_line(r"FileServerFactory starting on (\d+)")
        options = ("--name=edge", f"--upstream=tcp:127.0.0.1:{upstream}")
        proxy, port = places.proxy(stack, *options)
        path = places.socket("edge")
        with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(b"DOWNLOAD a\n")
            assert client.recv(100) == b"OK 8\ncontent\n"
            client_port = client.getsockname()[1]
        nat_port = proxy.await_line(r"DOWNLOAD a: completed, .* from port (\d+)")
        while get(path, "/v1/status")["journal"]["rows"] < 1:
            time.sleep(0.02)
        moment = get(path, f"/v1/whois?port={nat_port}")["last"]["started"]
        proxy.process.kill()
        proxy.process.wait()
        _, port = places.proxy(stack, *options)
        for target in (f"since={moment}&until={moment}", f"since={moment}"):
            answer = get(path, f"/v1/whois?port={nat_port}&{target}")
            found = [one for one in answer["translations"] if one["client_port"] == client_port]
            assert [one["name"] for one in found] == ["a"], answer


def test_web_endpoint_has_the_page_and_the_metrics(places: Places) -> None:
    with ExitStack() as stack:
        off = ("--control=none", "--journal=none")
        arguments = ("natproxy", LISTEN, *off, "--web=tcp:0:interface=127.0.0.1")
        proxy = places.start(stack, *arguments)
        port = int(proxy.await_line(r"web endpoint: 127\.0\.0\.1:(\d+)"))
        for target, status in (
            ("/", 200),
            ("/metrics", 200 if find_spec("prometheus_client") else 404),
            ("/v1/kill", 404),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.request("GET", target)
            response = connection.getresponse()
            response.read()
            connection.close()
            assert response.status == status, target
        assert proxy.end() == 0
