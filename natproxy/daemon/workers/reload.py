"""A reload of a daemon with workers: all of them take the settings, or none does.

The master prepares the settings first, then each worker does. Only if none of them reports an
error, they take effect. If the code or the endpoints have changed, the workers are replaced: new
ones are started, and when all of them serve, the old ones accept no more, and end when their
clients have left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooSlow
from twisted.logger import Logger

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.endpoints import listening_endpoints
from natproxy.daemon.reload import TIMEOUT, LiveSettings, Others, Reloader, Replacement
from natproxy.daemon.service import DaemonService, Phase, StartupError
from natproxy.daemon.workers.channel import Message
from natproxy.daemon.workers.code import fingerprint
from natproxy.daemon.workers.generation import Generation
from natproxy.daemon.workers.handover import EXECUTION, Identity, execute
from natproxy.daemon.workers.listening import OpenEndpoint, SocketOpener
from natproxy.daemon.workers.master import MasterService
from natproxy.daemon.workers.member import StartFailed, Worker
from natproxy.daemon.workers.pool import Pool
from natproxy.daemon.workers.record import config_members
from natproxy.daemon.workers.state import State
from natproxy.server.threads import Threads
from natproxy.settings import SettingError

EXECUTE = 1.0
"""Seconds from a reload to the execution of the master's new code."""

UNCERTAIN = (State.STARTING, State.LOST)
"""States of workers in which a master does not execute itself."""

REPLACED = frozenset({"listen"})
"""Settings that take effect with new workers, in addition to those that are reloadable."""


def reload_together(reactor: Any, *daemons: DaemonService) -> None:
    """Make a reload of the first daemon one of all of them, with their workers."""
    settings: list[LiveSettings[Any]] = []
    for one in daemons:
        if isinstance(one, MasterService):
            one.settings.replaced = REPLACED
            settings.append(one.settings)
        else:
            assert one.reloader is not None
            settings += one.reloader.settings
    reloader = Reloader(reactor, Threads(reactor, 1, "reload"), *settings)
    reloader.others = Workers(reactor, daemons)
    daemons[0].reloader = reloader


class Next(NamedTuple):
    """The next workers of a daemon, which serve already.

    :ivar master: the daemon.
    :ivar pool: they.
    :ivar generation: what they have in common.
    :ivar sockets: that they inherit.
    :ivar code: the fingerprint of the code that they run.
    :ivar reasons: why they replace others.
    """

    master: MasterService
    pool: Pool
    generation: Generation
    sockets: list[OpenEndpoint]
    code: str
    reasons: tuple[str, ...]

    @property
    def new_code(self) -> bool:
        """Whether the code has changed."""
        return self.code != self.master.code

    @property
    def replacement(self) -> Replacement:
        """What is reported of it."""
        return Replacement(self.master.config.table, self.master.count, self.reasons)

    def cancel(self) -> None:
        """Stop them: the workers of before stay."""
        # They may have accepted clients already.
        self.pool.retire(self.master.config.reload_drain or None)
        self.master.close_unused(self.sockets)


def reasons_to_replace(master: MasterService, config: DaemonConfig, code: str) -> tuple[str, ...]:
    """Return why a reload replaces the workers of a daemon; empty if it does not.

    :param config: the settings that it takes.
    :param code: the fingerprint of the code at present.
    """
    reasons = []
    if code != master.code:
        reasons.append("the code has changed")
    if config.listen != master.config.listen:
        reasons.append("the endpoints have changed")
    return tuple(reasons)


class Workers:
    """The workers of daemons, as `natproxy.daemon.reload.OtherProcesses`.

    :param reactor: for the time that they may take.
    :param daemons: those of the settings, in the same order; others than masters have no workers.
    """

    _log = Logger()

    def __init__(self, reactor: Any, daemons: Sequence[DaemonService]) -> None:
        self._reactor = reactor
        self._daemons = daemons

    async def check(self, cause: str, configs: Sequence[DaemonConfig]) -> Others:
        """Return what is wrong with settings, and which workers they replace."""
        errors: list[str] = []
        replaced: list[Replacement] = []
        for master, config in self._masters(configs):
            reasons = reasons_to_replace(master, config, await master.in_thread(fingerprint))
            if reasons:
                replaced.append(Replacement(config.table, master.count, reasons))
            try:
                listening_endpoints(SocketOpener(self._reactor, master.count), config)
            except SettingError as error:
                errors += error.messages
            else:
                errors += await self._send(master, cause, config, dry_run=True)
        return Others(list(dict.fromkeys(errors)), replaced)

    async def change(self, cause: str, configs: Sequence[DaemonConfig]) -> Others:
        """Put settings into effect; see `OtherProcesses`."""
        ready: list[Next] = []
        try:
            for master, config in self._masters(configs):
                following = await self._following(master, cause, config)
                if following is not None:
                    ready.append(following)
        except (SettingError, StartupError, StartFailed) as error:
            for one in ready:
                one.cancel()
            return Others([f"the workers cannot be replaced: {error}"])
        for master, config in self._masters(configs):
            for message in await self._send(master, cause, config, dry_run=False):
                self._log.error("{cause}: {message}", cause=cause, message=message)
        new_code = any(one.new_code for one in ready)
        for one in ready:
            if one.master.phase is not Phase.LISTENING:
                # The daemon stops, and these workers with it.
                one.master.close_unused(one.sockets)
                continue
            assert one.generation.config is not None
            one.master.replace(one.pool, one.sockets, one.code, one.generation.config)
            # In the next turn, the settings are in effect.
            self._reactor.callLater(0, one.generation.use_effective)
        if new_code:
            # When the reload was reported.
            self._reactor.callLater(EXECUTE, self._execute)
        return Others(replaced=[one.replacement for one in ready])

    def _masters(
        self, configs: Sequence[DaemonConfig]
    ) -> Iterator[tuple[MasterService, DaemonConfig]]:
        for one, config in zip(self._daemons, configs, strict=True):
            if isinstance(one, MasterService):
                yield one, config

    async def _following(
        self, master: MasterService, cause: str, config: DaemonConfig
    ) -> Next | None:
        """Return the next workers, when they serve; ``None`` if there is no reason for them.

        :raises StartupError: if an endpoint cannot be opened.
        :raises StartFailed: if a worker cannot start.
        """
        code = await master.in_thread(fingerprint)
        reasons = reasons_to_replace(master, config, code)
        if not reasons:
            return None
        self._log.info(
            "{cause}: the workers are replaced, since {reasons}",
            cause=cause,
            reasons=" and ".join(reasons),
        )
        sockets = master.open_sockets(config)
        generation = Generation(master.generation + 1, sockets, config)
        pool = master.new_pool(generation)
        started = pool.start()
        pool.attach()
        try:
            await started
        except StartFailed:
            master.close_unused(sockets)
            raise
        return Next(master, pool, generation, sockets, code, reasons)

    def _execute(self) -> None:
        """Execute the master's new code as well, if all of the process is in its workers."""
        masters = [one for one in self._daemons if isinstance(one, MasterService)]
        if any(one.phase is not Phase.LISTENING for one in masters):
            return
        if any(worker.state in UNCERTAIN for one in masters for worker in one):
            self._reactor.callLater(EXECUTE, self._execute)
            return
        same = all(one.identity == Identity.now() for one in masters)
        if not same or len(masters) < len(self._daemons):
            self._log.warn("the master itself runs the old code until the daemon is restarted")
            return
        daemons, descriptors = {}, []
        for one in masters:
            daemons[one.config.table], added = one.state()
            descriptors += added
        with suppress(OSError):
            os.chdir(masters[0].config.directory)
        notifier = masters[0].notifier
        execute(
            daemons,
            descriptors,
            masters[0].process != os.getpid() or EXECUTION.background,
            {} if notifier is None else notifier.variables,
        )

    async def _send(
        self, master: MasterService, cause: str, config: DaemonConfig, dry_run: bool
    ) -> list[str]:
        """Have all workers of a daemon take settings; return their errors."""
        replies: list[tuple[Worker, Deferred[Message]]] = []
        for worker in master:
            members = config_members(master.worker_config(config, worker.control))
            reply = worker.request("reload", cause=cause, dry_run=dry_run, config=members)
            replies.append((worker, reply.addTimeout(TIMEOUT, self._reactor)))
        errors: list[str] = []
        for worker, reply in replies:
            try:
                errors += (await reply)["errors"]
            except TooSlow:
                errors.append(f"worker {worker.number} has not replied within {TIMEOUT:g} s")
            except StartFailed:
                # It has ended: the next one takes the settings that are in effect then.
                continue
        return errors
