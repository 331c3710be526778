"""A worker's side of the channel: what it replies to a reload, and the modes of upstreams."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport

from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.reload import LiveSettings, Reloader
from natproxy.daemon.service import DrainingService
from natproxy.daemon.workers.membership import Membership, make_daemon
from natproxy.daemon.workers.record import WorkerRecord, config_members
from natproxy.proxy.upstreams import Mode
from natproxy.server.factory import CommandFactory
from tests.support.daemons import at_once
from tests.support.logged_errors import LoggedErrorsCase


class ReloadTests(LoggedErrorsCase):
    def setUp(self) -> None:
        self.clock = Clock()
        config = FileServerConfig()
        self.settings: LiveSettings[Any] = LiveSettings(config, ())
        self.daemon = DrainingService([], CommandFactory(self.clock, 1.0), 30.0, self.clock)
        self.daemon.reloader = Reloader(self.clock, at_once, self.settings)
        record = WorkerRecord("fileserver", 0, 2, 0, "b", config, (), -1)
        self.membership = Membership(self.clock, self.daemon, record)
        self.transport = StringTransport()
        self.membership._channel.makeConnection(self.transport)

    def errors_of(self, **members: Any) -> list[str]:
        """Return the errors that the worker replies with to settings."""
        config = {**config_members(FileServerConfig(timeout=7.0)), **members}
        message = {"do": "reload", "id": 5, "cause": "SIGHUP", "dry_run": False, "config": config}
        self.membership._channel.dataReceived(json.dumps(message).encode() + b"\n")
        reply = json.loads(self.transport.value())
        self.assertEqual((reply["event"], reply["id"]), ("reply", 5))
        errors: list[str] = reply["errors"]
        return errors

    def test_settings_are_taken(self) -> None:
        self.assertEqual(self.errors_of(), [])
        self.assertEqual(self.settings.config.timeout, 7.0)

    def test_malformed_setting_is_named(self) -> None:
        (error,) = self.errors_of(values={"timeout": "soon"})
        self.assertIn("timeout", error)
        self.assertEqual(self.settings.config, FileServerConfig())

    def test_unexpected_exception_is_replied_and_logged(self) -> None:
        (error,) = self.errors_of(table="colour")
        self.assertIn("colour", error)
        self.assertEqual(self.flush(KeyError), 1)


class ModeTests(LoggedErrorsCase):
    """The modes of upstreams, which a worker takes from its master."""

    def setUp(self) -> None:
        config = ProxyConfig().override(upstream=("tcp:127.0.0.1:1", "tcp:127.0.0.1:2"))
        modes = {"127.0.0.1:2": "drain", "a reload has removed it": "drain"}
        self.record = WorkerRecord("proxy", 0, 2, 0, "b", config, (), -1, modes=modes)
        self.daemon: Any = make_daemon(MemoryReactorClock(), self.record)

    def modes(self) -> list[Mode]:
        return [each.mode for each in self.daemon.factory.resources.upstreams]

    def test_worker_begins_with_the_modes_that_were_set(self) -> None:
        self.assertEqual(self.modes(), [Mode.READY, Mode.DRAIN])

    def test_mode_that_is_set_while_it_starts(self) -> None:
        membership = Membership(Clock(), self.daemon, self.record)
        membership._channel.makeConnection(StringTransport())
        for name, mode in (
            ("127.0.0.1:1", "maintenance"),
            ("127.0.0.1:2", "ready"),
            ("x", "drain"),
        ):
            message = {"do": "mode", "upstream": name, "mode": mode}
            membership._channel.dataReceived(json.dumps(message).encode() + b"\n")
        self.assertEqual(self.modes(), [Mode.MAINTENANCE, Mode.READY])
