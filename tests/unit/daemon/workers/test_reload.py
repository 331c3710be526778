"""A reload of a master: its workers take the settings, all or none, or are replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.reload import TIMEOUT, LiveSettings, Reloader, Result
from natproxy.daemon.service import DrainingService, Phase
from natproxy.daemon.workers.generation import Generation
from natproxy.daemon.workers.listening import OpenEndpoint
from natproxy.daemon.workers.master import MasterService
from natproxy.daemon.workers.member import Worker
from natproxy.daemon.workers.process import Launched
from natproxy.daemon.workers.record import WorkerRecord, config_of
from natproxy.daemon.workers.reload import Next, Workers, reload_together
from natproxy.daemon.workers.sockets import InheritedEndpoint
from natproxy.server.factory import CommandFactory
from tests.support.daemons import at_once
from tests.support.workers import PlayedProcess


class PlayedEndpoint(OpenEndpoint):
    """An endpoint without sockets."""

    closed = False
    address = "127.0.0.1:9000"

    def inherited(self) -> InheritedEndpoint:
        return InheritedEndpoint(self.description, 0, ())

    def close(self) -> None:
        self.closed = True


class PlayedMaster(MasterService):
    """A master whose workers are played, and which opens no sockets."""

    transports: dict[Worker, StringTransport]

    def open_sockets(self, config: Any) -> list[Any]:
        self.opened = [PlayedEndpoint("tcp:0", [])]
        return self.opened

    def _attach(self, worker: Worker) -> None:
        self.transports[worker] = transport = StringTransport()
        worker.channel.makeConnection(transport)


class ReloadCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.file = os.path.abspath(self.mktemp())
        self.write("")
        config = FileServerConfig.load({}, {}, self.file)
        template = DrainingService([], CommandFactory(self.clock, 1.0), 30.0, self.clock)
        template.log = LogChoice()
        settings = LiveSettings(config, ())
        template.reloader = Reloader(self.clock, at_once, settings)
        self.records: list[WorkerRecord] = []
        self.master = PlayedMaster(self.clock, template, config, "fileserver", 2, self.launch)
        self.master.transports = {}
        self.master.in_thread = cast(Any, at_once)
        self.master.daemon_name = "files"
        self.master.phase = Phase.LISTENING
        reloader = Reloader(self.clock, at_once, settings)
        reload_together(self.clock, self.master)
        assert self.master.reloader is not None
        reloader.others = Workers(self.clock, [self.master])
        self.master.reloader = reloader
        pool = self.master.new_pool(Generation(0, []))
        started = pool.start()
        for worker in pool:
            worker.channel.dataReceived(b'{"event": "ready"}\n')
        self.successResultOf(started)
        pool.attach()
        self.old = list(pool)

    def launch(self, record: WorkerRecord) -> Launched:
        self.records.append(record)
        any_socket: Any = None
        return Launched(PlayedProcess(100 + len(self.records)), any_socket, any_socket)

    def write(self, text: str) -> None:
        with open(self.file, "w") as file:
            file.write(f"[fileserver]\n{text}\n")

    def reload(self, dry_run: bool = False) -> Any:
        return self.master.reload("SIGHUP", dry_run)

    def sent(self, worker: Worker) -> list[Mapping[str, Any]]:
        transport = self.master.transports[worker]
        lines = transport.value().splitlines()
        transport.clear()
        return [json.loads(line) for line in lines]

    def reply(self, worker: Worker, *errors: str) -> Mapping[str, Any]:
        """Reply to the one reload of a worker; return the message."""
        (message,) = [one for one in self.sent(worker) if one["do"] == "reload"]
        reply = {"event": "reply", "id": message["id"], "errors": list(errors)}
        worker.channel.dataReceived(json.dumps(reply).encode() + b"\n")
        return message

    def reply_all(self) -> None:
        for worker in self.old:
            self.reply(worker)


class SettingsTests(ReloadCase):
    def test_all_workers_take_them_after_all_have_checked_them(self) -> None:
        self.write("timeout = 7")
        result = self.reload()
        for dry_run in (True, False):
            self.assertNoResult(result)
            for worker in self.old:
                message = self.reply(worker)
                self.assertEqual((message["do"], message["dry_run"]), ("reload", dry_run))
                config = config_of(message["config"])
                self.assertEqual((config.timeout, config.control), (7.0, "none"))  # type: ignore[attr-defined]
        found: Result = self.successResultOf(result)
        self.assertEqual([one.setting for one in found.changed], ["fileserver.timeout"])
        self.assertEqual(cast(FileServerConfig, self.master.config).timeout, 7.0)
        self.assertEqual(len(self.records), 2)

    def test_error_of_one_worker_changes_nothing(self) -> None:
        self.write("timeout = 7")
        result = self.reload()
        self.reply(self.old[0], "tokens: cannot be read")
        self.reply(self.old[1], "tokens: cannot be read")
        found: Result = self.successResultOf(result)
        self.assertEqual(found.errors, ("tokens: cannot be read",))
        self.assertEqual(cast(FileServerConfig, self.master.config).timeout, 600.0)
        self.assertEqual([self.sent(worker) for worker in self.old], [[], []])

    def test_dry_run_changes_nothing(self) -> None:
        self.write("timeout = 7")
        result = self.reload(dry_run=True)
        self.reply_all()
        self.assertEqual(self.successResultOf(result).errors, ())
        self.assertEqual(cast(FileServerConfig, self.master.config).timeout, 600.0)

    def test_dry_run_reports_which_workers_would_be_replaced(self) -> None:
        self.master.code = "of another version"
        self.write('listen = ["tcp:0"]')
        result = self.reload(dry_run=True)
        self.reply_all()
        (found,) = self.successResultOf(result).replaced
        self.assertEqual(found.workers, 2)
        self.assertEqual(found.reasons, ("the code has changed", "the endpoints have changed"))
        self.assertEqual(list(self.master), self.old)

    def test_worker_that_does_not_reply(self) -> None:
        result = self.reload()
        self.reply(self.old[0])
        self.clock.advance(TIMEOUT)
        (error,) = self.successResultOf(result).errors
        self.assertEqual(error, f"worker 1 has not replied within {TIMEOUT:g} s")

    def test_worker_that_ends_meanwhile_is_no_error(self) -> None:
        result = self.reload()
        self.old[1].process.status = 9
        self.old[1].channel.connectionLost()
        self.clock.advance(0.1)
        self.reply(self.old[0])
        (following,) = [one for one in self.master if one.number == 1]
        self.assertEqual(following.phase, "starting")
        for worker in (self.old[0], following):
            self.assertFalse(self.reply(worker)["dry_run"])
        self.assertEqual(self.successResultOf(result).errors, ())

    def test_malformed_endpoint(self) -> None:
        self.write('listen = ["tpc:1"]')
        (error,) = self.successResultOf(self.reload()).errors
        self.assertIn("listen tpc:1: ", error)


class ReplacementTests(ReloadCase):
    def setUp(self) -> None:
        super().setUp()
        self.write('listen = ["tcp:0"]\nreload-drain = 5')
        self.result = self.reload()
        self.reply_all()
        self.new = [one for one in self.master if one not in self.old]

    def test_new_workers_have_the_new_settings_before_they_are_in_effect(self) -> None:
        self.assertEqual(len(self.new), 2)
        self.assertEqual({one.generation for one in self.records[2:]}, {1})
        self.assertEqual(self.records[2].config.listen, ("tcp:0",))
        self.assertNotEqual(self.master.config.listen, ("tcp:0",))

    def test_old_workers_retire_when_all_new_ones_serve(self) -> None:
        for worker in self.new:
            self.assertEqual([one.phase for one in self.old], ["serving"] * 2)
            worker.channel.dataReceived(b'{"event": "ready"}\n')
        for worker in list(self.master):
            self.reply(worker)
        self.assertEqual(
            self.successResultOf(self.result).json(False)["replaced"],
            [{"daemon": "fileserver", "workers": 2, "reasons": ["the endpoints have changed"]}],
        )
        self.assertEqual(self.master.config.listen, ("tcp:0",))
        self.assertEqual([one.phase for one in self.old], ["draining"] * 2)
        self.assertEqual(self.sent(self.old[0]), [{"do": "retire", "seconds": 5.0}])

    def test_sockets_are_closed_if_the_daemon_stops_meanwhile(self) -> None:
        for worker in self.new:
            worker.channel.dataReceived(b'{"event": "ready"}\n')
        stopped = self.master.stopService()
        (opened,) = self.master.opened
        self.assertFalse(opened.closed)
        for worker in list(self.master):
            self.reply(worker)
        self.assertTrue(opened.closed)
        self.assertNoResult(stopped)

    def test_new_workers_finish_their_clients_if_another_daemon_cannot_reload(self) -> None:
        pool = self.master._pools[-1]
        Next(self.master, pool, Generation(1, []), self.master.opened, "", ()).cancel()
        for worker in self.new:
            self.assertIn({"do": "retire", "seconds": None}, self.sent(worker))
        self.assertTrue(self.master.opened[0].closed)

    def test_old_workers_stay_if_a_new_one_cannot_start(self) -> None:
        failing = self.new[1]
        failing.channel.dataReceived(b'{"event": "failed", "reason": "no such file"}\n')
        failing.process.status = 256
        failing.channel.connectionLost()
        self.clock.advance(0.1)
        (error,) = self.successResultOf(self.result).errors
        self.assertEqual(error, "the workers cannot be replaced: no such file")
        self.assertEqual([one.phase for one in self.old], ["serving"] * 2)
        self.assertNotEqual(self.master.config.listen, ("tcp:0",))
        self.assertTrue(self.master.opened[0].closed)
