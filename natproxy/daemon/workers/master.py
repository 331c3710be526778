"""The master of a daemon with workers: it opens the sockets, and carries no traffic."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import time
from typing import Any

from twisted.internet.defer import Deferred

from natproxy import __version__
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.descriptors import raise_limit
from natproxy.daemon.endpoints import listening_endpoints
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.logfile import LogWriter
from natproxy.daemon.places import name_of
from natproxy.daemon.reload import LiveSettings
from natproxy.daemon.service import (
    DaemonService,
    DrainingService,
    MasterCompanion,
    Phase,
    StartupError,
)
from natproxy.daemon.workers.channel import connect
from natproxy.daemon.workers.code import fingerprint
from natproxy.daemon.workers.generation import (
    Generation,
    Wait,
    control_of_workers,
    free_control,
    remove_control,
    resumed_sockets,
    resumed_worker,
    retire_older,
)
from natproxy.daemon.workers.handover import (
    EXECUTION,
    Identity,
    unblock_signals,
)
from natproxy.daemon.workers.listening import OpenEndpoint, SocketOpener, open_endpoints
from natproxy.daemon.workers.logs import WorkerLog, log_events
from natproxy.daemon.workers.member import LaunchedAs, Worker
from natproxy.daemon.workers.pool import Pool
from natproxy.daemon.workers.process import Launched, launch
from natproxy.daemon.workers.record import LogRecord, WorkerRecord
from natproxy.daemon.workers.state import State
from natproxy.records.places import NONE
from natproxy.server.threads import Threads

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
    :ivar started: when it has begun, in seconds since the epoch.
    :ivar daemon_name: set when its ports are open.
    :ivar kind: as the parameter.
    :ivar count: number of workers.
    :ivar modes: of the upstreams that an administrator has set one for, by their names.
    :ivar code: the fingerprint of the code that its newest workers run.
    :ivar in_thread: runs functions in a thread.
    :ivar identity: of the process, when the daemon was made.
    :ivar process: number of the process then: if it is another one now, it is in the background.
    :ivar write_log: called with lines of the workers' logs.
    :ivar inherited: what the companion of the program that has executed this one has left.
    """

    companion: MasterCompanion | None

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
        self._resumed = EXECUTION.take(config.table)
        state = self._resumed or {}
        self.boot: str = state.get("boot") or secrets.token_hex(8)
        self.started: float = state.get("started") or time()
        self.daemon_name: str = state.get("name", "")
        self.kind = kind
        self.count: int = state.get("count", workers)
        self.modes: dict[str, str] = dict(state.get("modes", {}))
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
        self.code: str = state.get("code") or fingerprint()
        self.identity = Identity.now()
        self.process = os.getpid()
        self.in_thread = Threads(reactor, 1, "code")
        self.inherited: Mapping[str, Any] = state.get("observation") or {}
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
            if self._resumed is not None:
                self._sockets = resumed_sockets(self._resumed)
            before, self._sockets = self._sockets, self.open_sockets(self._config)
            self.close_unused(before)
            self.ports = list(self._sockets)
            self.addresses = tuple(one.address for one in self._sockets)
            if not self.daemon_name:
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
            self._control = control_of_workers(self._config, self.daemon_name)
            if self.companion is not None:
                self.companion.start()
            if self._resumed is None:
                self._start_workers()
            else:
                self._resume(self._resumed)
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

    def keep_mode(self, name: str, mode: str) -> None:
        """Note the mode of an upstream for the workers that do not serve yet.

        :param name: of the upstream.
        """
        self.modes[name] = mode
        for worker in self:
            if worker.state is State.STARTING:
                worker.send("mode", upstream=name, mode=mode)

    def _kill(self) -> None:
        for pool in list(self._pools):
            pool.kill()

    def open_sockets(self, config: DaemonConfig) -> list[OpenEndpoint]:
        """Return the open sockets of all endpoints; those that are open already are kept.

        :raises StartupError: if one cannot be opened.
        :raises SettingError: if an endpoint is malformed.
        """
        opener = SocketOpener(self._reactor, self.count)
        endpoints = listening_endpoints(opener, config)
        return open_endpoints(opener, endpoints, self._sockets, config.label("listen"))

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

    def _start_workers(self) -> None:
        """Start the first workers, and wait until they serve: the reactor does not run yet.

        :raises StartupError: if one cannot start.
        """
        pool = self.new_pool(Generation(0, self._sockets))
        Wait(pool).until_started(self._reactor.seconds)
        pool.attach()

    def new_pool(self, generation: Generation) -> Pool:
        """Return the workers of a generation, which are not started yet."""
        launch = partial(self._launch_worker, generation)
        pool = Pool(self._reactor, self.count, launch, self._attach, generation.number)
        pool.ended = self._pool_ended
        pool.gone = remove_control
        self._pools.append(pool)
        return pool

    def _launch_worker(self, generation: Generation, number: int) -> LaunchedAs:
        boot = secrets.token_hex(8)
        control = free_control(self._control, number, {worker.control for worker in self})
        record = WorkerRecord(
            kind=self.kind,
            number=number,
            workers=self.count,
            generation=generation.number,
            boot=boot,
            config=self.worker_config(generation.config or self.config, control),
            endpoints=tuple(one.inherited() for one in generation.sockets),
            # `launch` replaces it.
            channel=-1,
            log=self._log_record,
            reactor=type(self._reactor).__module__,
            modes=self.modes,
        )
        return LaunchedAs(boot, control, self._launch(record))

    def worker_config(self, config: DaemonConfig, control: str | None) -> DaemonConfig:
        """Return the settings of a worker, which is observed through its control socket only."""
        return config.override(name=self.daemon_name, control=control or NONE, web=())

    def _attach(self, worker: Worker) -> None:
        """Have the reactor serve a worker."""
        connect(self._reactor, worker.launched.channel, worker.channel)
        worker.log = WorkerLog(lambda data: self.write_log(data))
        connect(self._reactor, worker.launched.log, worker.log)

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
        retire_older([one for one in self._pools if one is not pool], config)
        self.close_unused(before)

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Take the workers of the program that has executed this one."""
        for each in state["pools"]:
            pool = self.new_pool(Generation(each["generation"], self._sockets))
            now = self._reactor.seconds
            workers = [resumed_worker(one, pool, now) for one in each["workers"]]
            pool.resume(workers, each["serving"])
        self._resumed = None
        loop = self._reactor
        # In the second turn of the reactor: its signal handlers are installed by then.
        loop.callWhenRunning(loop.callLater, 0, unblock_signals)

    def state(self) -> tuple[dict[str, Any], list[int]]:
        """Return what the program needs that this one executes, and its descriptors."""
        sockets = [(*one.inherited(), one.path) for one in self._sockets]
        observation: dict[str, Any] = {}
        descriptors: list[int] = []
        if self.companion is not None:
            observation, descriptors = self.companion.inheritable()
        state = {
            "boot": self.boot,
            "started": self.started,
            "name": self.daemon_name,
            "count": self.count,
            "modes": self.modes,
            "code": self.code,
            "pools": [pool.json() for pool in self._pools],
            "sockets": sockets,
            "observation": observation,
        }
        descriptors += [number for one in self._sockets for number in one.inherited().descriptors]
        for worker in self:
            descriptors += worker.descriptors()
        return state, descriptors

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
