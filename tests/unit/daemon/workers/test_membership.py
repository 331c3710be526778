"""A worker's side of the channel: what it replies to a reload."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.reload import LiveSettings, Reloader
from natproxy.daemon.service import DrainingService
from natproxy.daemon.workers.membership import Membership
from natproxy.daemon.workers.record import WorkerRecord, config_members
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
