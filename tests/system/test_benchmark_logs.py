"""The benchmark's peers that write a log, and the syslog daemon that takes HAProxy's."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.peers import PEERS, Setting
from benchmarks.processes import module
from tests.support.paths import ROOT


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(15_001, 15_002, tmp_path / "files", tmp_path, 100, 1)


def test_haproxy_logs_to_the_socket_of_the_benchmark_if_it_is_to(setting: Setting) -> None:
    for name, logs in (("haproxy-log", True), ("haproxy-splice", False)):
        peer = PEERS[name]
        peer.command(setting)
        text = (setting.directory / "haproxy.cfg").read_text()
        assert (f"log {setting.directory}/log.sock local0" in text) is logs
        assert ("option tcplog" in text) is logs
        assert peer.syslog(setting) == (setting.directory / "log.sock" if logs else None)


def test_natproxy_with_its_defaults_leaves_nothing_outside_of_the_benchmark(
    setting: Setting,
) -> None:
    peer = PEERS["natproxy-defaults"]
    command = peer.command(setting)
    assert not [option for option in command if option.startswith("--log-level")]
    (journal,) = [option for option in command if option.startswith("--journal=")]
    assert journal == f"--journal={setting.directory / 'journal'}"
    assert f"--control={peer.control(setting)}" in command


def test_natproxy_with_an_access_log_has_no_other_observers(setting: Setting) -> None:
    command = PEERS["natproxy-log"].command(setting)
    assert f"--access-log={setting.directory / 'access.log'}" in command
    assert {"--control=none", "--journal=none", "--log-level=error"} <= set(command)


def test_syslog_daemon_appends_each_message_to_its_file(tmp_path: Path) -> None:
    path, log = tmp_path / "log.sock", tmp_path / "log"
    command = module("daemons.syslog", path, log)
    with (
        subprocess.Popen(command, cwd=ROOT) as process,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        try:
            deadline = time.monotonic() + 20
            while not path.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for _ in range(2000):
                sender.sendto(b"x" * 100, str(path))
            while not log.stat().st_size:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGTERM)
    # The last one may not be whole: the daemon writes when its buffer is full.
    assert set(log.read_bytes().split(b"\n")[:-1]) == {b"x" * 100}
