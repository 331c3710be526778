"""The master of a daemon with workers: it opens the sockets, and carries no traffic."""

from __future__ import annotations

import os
import secrets
import select
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from natproxy import __version__
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.descriptors import raise_limit
from natproxy.daemon.endpoints import listening_endpoints
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.logfile import LogWriter
from natproxy.daemon.places import PlaceError, default_path, explicit_control, name_of
from natproxy.daemon.reload import LiveSettings
from natproxy.daemon.service import DaemonService, DrainingService, Phase, StartupError
from natproxy.daemon.workers.channel import connect
from natproxy.daemon.workers.code import fingerprint
from natproxy.daemon.workers.logs import WorkerLog, log_events
from natproxy.daemon.workers.pool import START, LaunchedAs, Pool, StartFailed, Worker
from natproxy.daemon.workers.process import Launched, launch
from natproxy.daemon.workers.record import LogRecord, WorkerRecord
from natproxy.daemon.workers.sockets import OpenEndpoint, SocketOpener, open_endpoint
from natproxy.records.places import NONE, SOCKET_SUFFIX
from natproxy.server.threads import Threads

GENERATIONS = 3
"""Generations of workers that may run: of an older one, the connections are drained."""

KILL = 30.0
"""Seconds beyond the time to drain after which the workers that are left are killed."""


class MasterService(DaemonService):
    """Runs the workers of a daemon.

    :param reactor: of the process.
    :param template: the daemon in one process. It is never started; its parts check settings.
    :param config: the settings.
    :param kind: ``proxy``, ``fileserver`` or ``up``.
    :param workers: how many.
    :param launch: starts the process of a record.
    :ivar boot: random text; this run of the daemon.
    :ivar daemon_name: set when its ports are open.
    :ivar kind: as the parameter.
    :ivar count: number of workers.
    :ivar code: the fingerprint of the code that its newest workers run.
    :ivar in_thread: runs functions in a thread.
    :ivar write_log: called with lines of the workers' logs.
    """

    def __init__(
        self,
        reactor: Any,
        template: DrainingService,
        config: DaemonConfig,
        kind: str,
        workers: int,
        launch: Callable[[WorkerRecord], Launched] = launch,
    ) -> None:
        super().__init__(template.endpoints, template.drain)
        self.boot = secrets.token_hex(8)
        self.daemon_name = ""
        self.kind = kind
        self.count = workers
        self.write_log: Callable[[bytes], object] = log_events
        self.reloader = template.reloader
        self._reactor = reactor
        self._template = template
        self._config = config
        self._launch = launch
        self._log_record = LogRecord(own=False)
        self._sockets: list[OpenEndpoint] = []
        self._control: str | None = None
        self._pools: list[Pool] = []
        self.code = fingerprint()
        self.in_thread = Threads(reactor, 1, "code")
        self._emptied: Deferred[None] | None = None

    @property
    def config(self) -> DaemonConfig:
        """The settings that are in effect."""
        config: DaemonConfig = self.settings.config
        return config

    @property
    def settings(self) -> LiveSettings[Any]:
        """Its settings, which `reloader` may have together with those of others."""
        assert self._template.reloader is not None
        settings: LiveSettings[Any] = self._template.reloader.settings[0]
        return settings

    @property
    def generation(self) -> int:
        """Number of the newest workers."""
        return max((one.generation for one in self._pools), default=0)

    def __iter__(self) -> Iterator[Worker]:
        """Yield the workers whose processes run: the newest first, then those that drain."""
        for pool in reversed(self._pools):
            yield from pool

    def use_brief_log(self, writer: LogWriter) -> None:
        """Log as ``natproxy up`` does."""
        self.write_log = writer.write_lines
        self._log_record = LogRecord(own=False, brief=True)

    def use_log(self, log: LogChoice) -> None:
        """Set where the daemon logs, with its workers."""
        self.log = self._template.log = log
        own = log.writer is not None
        if log.writer is not None:
            self.write_log = log.writer.write_lines
        self._log_record = LogRecord(own, log.structured, log.commands, log.foreign)

    def privilegedStartService(self) -> None:
        """Open the sockets; the process may have privileges now.

        :raises StartupError: if one of the endpoints can't be listened on.
        """
        super().privilegedStartService()
        raise_limit()
        try:
            self._sockets = self.open_sockets(self._config)
            self.ports = list(self._sockets)
            self.addresses = tuple(one.address for one in self._sockets)
            self.daemon_name = name_of(self._config, self.kind, self.ports)
            if self.companion is not None:
                self.companion.open_ports()
        except StartupError:
            self._cancel_start()
            raise
        self.phase = Phase.LISTENING

    def startService(self) -> None:
        """Open the sockets, unless `privilegedStartService` has done so, and start the workers.

        :raises StartupError: if a worker cannot start, or the companion cannot.
        """
        super().startService()
        if self.phase is not Phase.LISTENING:
            self.privilegedStartService()
        try:
            self._control = self._control_path()
            if self.companion is not None:
                self.companion.start()
            self._start_workers()
        except StartupError:
            self._cancel_start()
            raise
        if self.announced:
            self._log_start()

    def stopService(self) -> Deferred[None]:
        """Close the sockets, let the workers drain, then abort what is left.

        :return: fires when no worker is left, and the companion has stopped.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.phase = Phase.DRAINING
        drain = self._template.drain or 0.0
        emptied: Deferred[None] = Deferred()
        self._emptied = emptied
        kill = self._reactor.callLater(drain + KILL, self._kill)
        for pool in list(self._pools):
            pool.drain(drain)
        self._close_sockets()
        self._check_emptied()
        await emptied
        if kill.active():
            kill.cancel()
        if self.companion is not None:
            await self.companion.stop()
        self.phase = Phase.STOPPED

    def abort(self) -> None:
        """Make the workers abort the connections that are left."""
        for pool in self._pools:
            pool.abort()

    def reopen_logs(self) -> bool:
        """Make the workers open the access log again; return whether there is one."""
        for pool in self._pools:
            pool.send("reopen")
        return self.config.access_log is not None or super().reopen_logs()

    def _kill(self) -> None:
        for pool in list(self._pools):
            pool.kill()

    def open_sockets(self, config: DaemonConfig) -> list[OpenEndpoint]:
        """Return the open sockets of all endpoints; those that are open already are kept.

        :raises StartupError: if one cannot be opened.
        :raises SettingError: if an endpoint is malformed.
        """
        opener = SocketOpener(self._reactor, self.count)
        kept = {one.description: one for one in self._sockets}
        opened: list[OpenEndpoint] = []
        try:
            for endpoint in listening_endpoints(opener, config):
                one = kept.pop(endpoint.description, None)
                if one is None:
                    one = open_endpoint(opener, endpoint, config.label("listen"))
                opened.append(one)
        except BaseException:
            self.close_unused(opened)
            raise
        return opened

    def close_unused(self, sockets: Sequence[OpenEndpoint]) -> None:
        """Close those of some sockets that the daemon does not listen on."""
        for one in sockets:
            if one not in self._sockets:
                one.close()

    def _close_sockets(self) -> None:
        sockets, self._sockets = self._sockets, []
        self.ports = []
        for one in sockets:
            one.close()

    def _cancel_start(self) -> None:
        self._template.start_failed()
        self.phase = Phase.STOPPED
        for worker in self:
            worker.process.terminate()
        self._close_sockets()
        if self.companion is not None:
            self.companion.cancel_start()

    def _control_path(self) -> str | None:
        """Return the path from which those of the workers follow; ``None`` if they have none.

        The master reads from them for its web endpoints, too.
        """
        if self._config.control == NONE and not self._config.web:
            return None
        path = explicit_control(self._config)
        if path is None:
            try:
                path = default_path(os.environ, os.geteuid(), self.daemon_name)
            except PlaceError:
                # The companion has logged the reason.
                return None
        return path

    def _start_workers(self) -> None:
        """Start the first workers, and wait until they serve: the reactor does not run yet.

        :raises StartupError: if one cannot start.
        """
        pool = self.new_pool(Generation(0, self._sockets))
        failures: list[Failure] = []
        started: list[None] = []
        pool.start().addCallbacks(started.append, failures.append)
        wait = Wait(pool)
        deadline = self._reactor.seconds() + START
        while not started and not failures:
            if self._reactor.seconds() > deadline:
                raise StartupError(f"the workers have not started within {START:g} s")
            wait.once()
        if failures:
            failures[0].trap(StartFailed)
            raise StartupError(failures[0].getErrorMessage())
        pool.attach()

    def new_pool(self, generation: Generation) -> Pool:
        """Return the workers of a generation, which are not started yet."""
        launch = partial(self._launch_worker, generation)
        pool = Pool(self._reactor, self.count, launch, self._attach, generation.number)
        pool.ended = self._pool_ended
        self._pools.append(pool)
        return pool

    def _launch_worker(self, generation: Generation, number: int) -> LaunchedAs:
        boot = secrets.token_hex(8)
        control = self._worker_control(number)
        record = WorkerRecord(
            self.kind,
            number,
            self.count,
            generation.number,
            boot,
            self.worker_config(generation.config or self.config, control),
            tuple(one.inherited() for one in generation.sockets),
            -1,
            self._log_record,
            type(self._reactor).__module__,
        )
        return LaunchedAs(boot, control, self._launch(record))

    def _worker_control(self, number: int) -> str | None:
        """Return a path for a worker's control socket that no other worker has."""
        if self._control is None:
            return None
        stem = self._control.removesuffix(SOCKET_SUFFIX)
        taken = {worker.control for worker in self}
        path, again = f"{stem}.w{number}{SOCKET_SUFFIX}", 0
        while path in taken:
            again += 1
            path = f"{stem}.w{number}.{again}{SOCKET_SUFFIX}"
        return path

    def worker_config(self, config: DaemonConfig, control: str | None) -> DaemonConfig:
        """Return the settings of a worker, which is observed through its control socket only."""
        return config.override(name=self.daemon_name, control=control or NONE, web=())

    def _attach(self, worker: Worker) -> None:
        """Have the reactor serve a worker."""
        connect(self._reactor, worker.launched.channel, worker.channel)
        connect(self._reactor, worker.launched.log, WorkerLog(lambda data: self.write_log(data)))

    def replace(
        self, pool: Pool, sockets: list[OpenEndpoint], code: str, config: DaemonConfig
    ) -> None:
        """Retire the workers; those of a new pool serve.

        :param sockets: of the new ones; others are closed.
        :param code: the fingerprint of the code that they run.
        :param config: their settings.
        """
        before, self._sockets = self._sockets, sockets
        self.ports = list(sockets)
        self.addresses = tuple(one.address for one in sockets)
        self.code = code
        older = [one for one in self._pools if one is not pool]
        for one in older:
            one.retire(config.reload_drain or None)
        for one in older[: -(GENERATIONS - 1)]:
            one.drain(config.drain)
        self.close_unused(before)

    def _pool_ended(self, pool: Pool) -> None:
        if pool in self._pools:
            self._pools.remove(pool)
        self._check_emptied()

    def _check_emptied(self) -> None:
        if self._emptied is not None and not self._pools:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _log_start(self) -> None:
        self._log.info(
            "natproxy {version}: {details} listens on {addresses}; workers: {workers}",
            version=__version__,
            details=self._template.details,
            addresses=", ".join(self.addresses),
            workers=", ".join(f"{one.number} (process {one.pid})" for one in self),
        )


class Generation:
    """What the workers of a generation have in common.

    :param number: counted up by each reload that replaces the workers.
    :param sockets: that they inherit.
    :param config: their settings; ``None`` for those that are in effect.
    :ivar number: as the parameter.
    :ivar sockets: likewise.
    :ivar config: likewise.
    """

    def __init__(
        self, number: int, sockets: Sequence[OpenEndpoint], config: DaemonConfig | None = None
    ) -> None:
        self.number = number
        self.sockets = sockets
        self.config = config

    def use_effective(self) -> None:
        """Start further workers with the settings that are in effect."""
        self.config = None


class Wait:
    """Serves the channels of workers that start while the reactor does not run.

    :param pool: the workers.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._closed: set[Worker] = set()

    def once(self, seconds: float = 0.05) -> None:
        """Receive what workers have sent, and note which have ended.

        :param seconds: to wait for it.
        """
        open_ = {
            one.launched.channel.fileno(): one for one in self._pool if one not in self._closed
        }
        poll = select.poll()
        for descriptor in open_:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(seconds * 1000):
            worker = open_[descriptor]
            data = worker.launched.channel.recv(1 << 16)
            if data:
                worker.channel.dataReceived(data)
            else:
                self._closed.add(worker)
        self._pool.reap()
