"""A worker's side of its channel: heartbeats, and what the master has it do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.daemon.fileserver import make_file_server_process
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy import make_proxy_process
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DrainingService
from natproxy.daemon.workers.channel import Channel, Message, connect
from natproxy.daemon.workers.pool import BEAT
from natproxy.daemon.workers.record import WorkerRecord, config_of
from natproxy.daemon.workers.share import Share, SiblingSockets
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.upstreams import Mode
from natproxy.settings import SettingError


def make_daemon(reactor: Any, record: WorkerRecord) -> DrainingService:
    """Return the daemon of a worker, without a log.

    :raises SettingError: if a setting is wrong.
    """
    share = Share(record.number, record.workers, record.boot, record.endpoints)
    config = record.config
    if isinstance(config, ProxyConfig):
        daemon = make_proxy_process(reactor, config, kind=record.kind, share=share)
    else:
        daemon = make_file_server_process(reactor, cast(FileServerConfig, config), share=share)
    assert daemon.reloader is not None
    # The master reports what a reload does.
    daemon.reloader.reports = False
    for name, mode in record.modes.items():
        set_mode(daemon, name, mode)
    return daemon


def set_mode(daemon: DrainingService, name: str, mode: str) -> None:
    """Set the mode of an upstream, if the daemon has it: a reload may have removed it."""
    if isinstance(daemon.factory, ProxyFactory):
        daemon.factory.resources.upstreams.set_mode(name, Mode(mode))


class Membership:
    """A worker among those of its daemon.

    :param reactor: of the process.
    :param daemon: what it runs.
    :param record: what it was started with.
    """

    _log = Logger()

    def __init__(self, reactor: Any, daemon: DrainingService, record: WorkerRecord) -> None:
        self._reactor = reactor
        self._daemon = daemon
        self._sockets = [number for one in record.endpoints for number in one.descriptors]
        self._siblings = SiblingSockets(daemon.endpoints, daemon.factory)
        self._channel = Channel(self._received, self._master_ended)
        self._beats = LoopingCall(self._beat)
        self._beats.clock = reactor
        self._stopping = False
        self._actions: Mapping[str, Callable[[Message], object]] = {
            "adopt": lambda message: self._adopt(message["socket"]),
            "release": lambda message: self._siblings.release(message["socket"]),
            "drain": lambda message: self.drain(message["seconds"]),
            "retire": lambda message: self._retire(message["seconds"]),
            "abort": lambda message: daemon.abort(),
            "reopen": lambda message: daemon.reopen_logs(),
            "mode": lambda message: set_mode(daemon, message["upstream"], message["mode"]),
            "reload": self._reload,
        }

    def start(self, channel: socket.socket) -> None:
        """Serve the channel, and report to the master as soon as the reactor runs."""
        connect(self._reactor, channel, self._channel)
        self._daemon.end = lambda cause: self._drain_alone(cause)
        signal.signal(
            signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._drain_alone, "SIGTERM")
        )
        self._reactor.callWhenRunning(self._ready)

    async def stop(self) -> None:
        """Drain: the reactor is about to stop."""
        await self._daemon.stopService()

    def drain(self, seconds: float | None) -> None:
        """Close the sockets, finish the connections, and end.

        :param seconds: for which it may take, from now; ``None`` for any time.
        """
        if self._stopping:
            if seconds is not None:
                self._reactor.callLater(seconds, self._daemon.abort)
            return
        self._stopping = True
        self._daemon.drain = seconds
        self._close_sockets()
        self._reactor.stop()

    def _retire(self, seconds: float | None) -> None:
        """Close the sockets, and end when the clients that are connected have left.

        A connection is not closed between two commands: its client may just have sent the next one.

        :param seconds: after which the connections are drained; ``None`` for any time.
        """
        if self._stopping:
            return
        drain = self._daemon.drain
        self._close_sockets()
        self._log.info(
            "the worker is replaced; connections that it still serves: {count}",
            count=len(self._daemon.factory.connections),
        )
        self._daemon.retire().addCallback(lambda _: self.drain(drain))
        if seconds is not None:
            self._reactor.callLater(seconds, self.drain, drain)

    def _close_sockets(self) -> None:
        """Close the inherited sockets: they are closed when no process has them any more."""
        self._siblings.release_all()
        sockets, self._sockets = self._sockets, []
        for descriptor in sockets:
            os.close(descriptor)

    def _drain_alone(self, cause: str) -> None:
        """Drain for a cause that the master does not have: it starts another worker meanwhile."""
        if not self._stopping:
            self._log.info("{cause}: the worker stops", cause=cause)
            self._channel.send({"event": "draining"})
            self.drain(self._daemon.drain)

    def _master_ended(self) -> None:
        if not self._stopping:
            self._log.error("the master has ended: the worker stops")
            self.drain(self._daemon.drain)

    def _ready(self) -> None:
        self._channel.send({"event": "ready"})
        self._beats.start(BEAT)

    def _beat(self) -> None:
        self._channel.send({"event": "beat"})

    def _adopt(self, sibling: int) -> None:
        if self._sockets:
            self._siblings.adopt(sibling)

    def _received(self, message: Message) -> None:
        action = self._actions.get(message["do"])
        if action is not None:
            action(message)

    def _reload(self, message: Message) -> None:
        """Take settings, and reply with what is wrong with them."""

        def failed(failure: Failure) -> tuple[str, ...]:
            if isinstance(failure.value, SettingError):
                return failure.value.messages
            self._log.failure("cannot take the settings of the master", failure)
            return (f"the worker cannot take them: {failure.getErrorMessage()}",)

        def reply(errors: tuple[str, ...]) -> None:
            self._channel.send({"event": "reply", "id": message["id"], "errors": list(errors)})

        Deferred.fromCoroutine(self._load(message)).addErrback(failed).addCallback(reply)

    async def _load(self, message: Message) -> tuple[str, ...]:
        """Take the settings of a message; return what is wrong with them.

        :raises SettingError: if one of them is malformed.
        """
        new = config_of(message["config"])
        reloader = self._daemon.reloader
        assert reloader is not None
        for settings in reloader.settings:
            settings.load = lambda: new
        if self._stopping:
            return ()
        return (await reloader.reload(message["cause"], message["dry_run"])).errors
