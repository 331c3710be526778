"""What shows a daemon with workers to its operators: the master's control socket and web endpoints.

The master is a client of the workers' control sockets, and shows all of them as one daemon. It has
the lock of the journal's directory; the workers write the segments.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from natproxy import __version__
from natproxy.control.interfaces import Observed
from natproxy.control.merged.workers import Fleet, Worker, WorkerHandle
from natproxy.control.peer import Peer
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.control_socket import InheritedControl
from natproxy.daemon.descriptors import attainable, observers_for
from natproxy.daemon.observation import Observation
from natproxy.daemon.places import PlaceError, name_of, prepare_journal
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DaemonService, Phase, StartupError
from natproxy.daemon.workers.sockets import InheritedEndpoint, open_or_adopt
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.records.places import NONE, journal_directory
from natproxy.records.record import Origin, format_time, microseconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from natproxy.control.json_resource import Context
    from natproxy.control.merged.history import Past
    from natproxy.control.merged.status import Tally
    from natproxy.server.access_log import AccessLog
    from natproxy.server.command_log import CommandLines

PREFIXES = {"proxy": "natproxy", "fileserver": "natproxy_fileserver"}
"""What the names of the metrics begin with, by the kind of the daemon."""


class Reachable:
    """The workers that have a control socket; see `natproxy.control.merged.workers.Workers`.

    :param workers: all that there are.
    """

    def __init__(self, workers: Iterable[Any]) -> None:
        self._workers = workers

    def __iter__(self) -> Iterator[WorkerHandle]:
        return (worker for worker in self._workers if worker.control is not None)


class MergedObservation(Observation):
    """Control socket and web endpoints of a master.

    :param reactor: the daemon's.
    :param daemon: the master.
    :param config: its settings.
    :param kind: ``proxy``, ``fileserver`` or ``up``, for its default name.
    :param workers: the master, which yields those that there are at any moment. It has the boot
        and the start of its run, and what it has inherited: it may have executed itself anew since.
    :param template: shows the daemon in one process; it is not started. Its web endpoints are
        opened, since a reload replaces their certificates.
    """

    def __init__(
        self,
        reactor: Any,
        daemon: DaemonService,
        config: DaemonConfig,
        kind: str,
        workers: Any,
        template: Observation,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        observers = observers_for(config, attainable())
        super().__init__(reactor, daemon, config, kind, observers, environ)
        self.shown_kind = template.shown_kind
        self._web_endpoints = template.web_endpoints
        self.endpoints = list(self._web_endpoints)
        self._boot: str = workers.boot
        self._begin -= max(0.0, self._started - workers.started)
        self._started = workers.started
        self._fleet = Fleet(reactor, Reachable(workers))
        self._keep_mode: Callable[[str, str], object] = workers.keep_mode
        self._inherited = InheritedControl.from_json(workers.inherited.get("control"))
        self._inherited_web = {
            description: InheritedEndpoint(description, family, (descriptor,))
            for description, family, descriptor in workers.inherited.get("web", ())
        }
        self._tally: Tally | None = None
        self._claim: int | None = None
        # The working directory may change before the journal is opened.
        journal = config.journal if isinstance(config, ProxyConfig) else NONE
        self._named = os.path.abspath(journal) if journal not in (None, NONE) else None
        self._keeps_journal = journal != NONE
        self._journal: str | None = None

    def open_web(self) -> list[IListeningPort]:
        """Return the ports of the web endpoints; those of the program before it stay open."""
        inherited, self._inherited_web = self._inherited_web, {}
        return open_or_adopt(
            self.reactor,
            self._web_endpoints,
            inherited,
            cast(IProtocolFactory, self._visitors),
            self.config.label("web"),
        )

    def inheritable(self) -> tuple[dict[str, Any], list[int]]:
        """Return its sockets: clients wait while the next program starts; see `MasterCompanion`."""
        control = None if self._control is None else self._control.inheritable()
        web = [
            (endpoint.description, port.addressFamily, port.fileno())
            for endpoint, port in zip(
                self._web_endpoints, cast("list[Any]", self._web_ports), strict=True
            )
        ]
        descriptors = [descriptor for _, _, descriptor in web]
        if control is not None:
            descriptors += [control.socket, control.lock]
        return {"control": None if control is None else control._asdict(), "web": web}, descriptors

    def make_origin(self) -> Origin:
        """Return the origin of the master, which has no worker's number of its own."""
        name = name_of(self.config, self._kind, self.daemon.ports)
        return Origin(name, 0, self._boot)

    def make_metrics(self) -> DaemonMetrics | None:
        """Return nothing: the workers count."""
        return None

    def log_ends(self, log: AccessLog | CommandLines) -> None:
        """Do nothing: the workers log the commands."""

    def stop_events(self) -> None:
        """Do nothing, likewise."""

    def log_commands(self) -> None:
        """Do nothing, likewise."""

    def open_files(self) -> None:
        """Lock the directory of the journal, so that no other daemon writes it.

        :raises StartupError: if one that was configured cannot be used, or another daemon has it.
        """
        if not self._keeps_journal:
            return
        from natproxy.journal.directory import JournalError, claim

        label = self.config.label("journal")
        path = self._named or journal_directory(self.environ, os.geteuid(), self.origin.proxy)
        try:
            if path is None:
                raise PlaceError("neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set")
            prepare_journal(path, parents=self._named is None)
        except PlaceError as error:
            if self._named is not None:
                raise StartupError(f"{label} {path}: {error}") from error
            self._log.warn(
                "no journal: {reason}; choose a directory with {label}, or none",
                reason=f"{path}: {error}" if path else error,
                label=label,
            )
            return
        try:
            self._claim = claim(path)
        except JournalError as error:
            # The workers would write it beside those of the other daemon.
            raise StartupError(f"{label} {path}: {error}") from error
        self._journal = path

    def cancel_start(self) -> None:
        """Release the journal as well."""
        super().cancel_start()
        self._release()

    async def stop(self) -> None:
        """Close everything; the workers have ended."""
        if self._tally is not None and self._tally.running:
            self._tally.stopService()
        await super().stop()
        self._release()

    def _release(self) -> None:
        descriptor, self._claim = self._claim, None
        if descriptor is not None:
            os.close(descriptor)

    def serve(self, context: Context) -> None:
        """Serve the merged resources."""
        from natproxy.control.merged.resources import merged_resources
        from natproxy.control.merged.status import Tally
        from natproxy.control.site import control_site
        from natproxy.web.merged_rates import MergedRates
        from natproxy.web.site import site_of

        prefix = PREFIXES[self.shown_kind]
        self._tally = tally = Tally(self._fleet, prefix, self.status)
        tally.startService()
        past = self._past()
        if self.control is not None:
            resources = merged_resources(context, self._fleet, tally, past, actions=True)
            self._controllers.serve(control_site(context, resources))
        if self._web_ports:
            rates = None
            if past is not None:
                rates = MergedRates(self._fleet, self._boot, self.wall_clock)
            resources = merged_resources(context, self._fleet, tally, past, actions=False)
            self._visitors.serve(site_of(context, resources, rates, self.config.web_hosts))

    def _past(self) -> Past | None:
        """Return the past of a proxy: its journal, or what its workers remember."""
        if self.shown_kind != "proxy":
            return None
        from natproxy.control.merged.history import MergedJournal, MergedRings

        if self._journal is None:
            return MergedRings(self._fleet, self.wall_clock)
        return MergedJournal(self._fleet, self._journal, self.wall_clock)

    def observed(self) -> Observed:
        """Return what the resources of the master itself show."""
        return Observed(
            self.shown_kind,
            self.origin,
            self.status,
            self._reason_not_ready,
            lambda: self.daemon.end("drain requested on the control socket"),
            note=self._note if self.shown_kind == "proxy" else None,
            reload=self._reload,
            keep_mode=self._keep_mode,
        )

    def _note(self, event: str, uid: int | None, pid: int | None) -> None:
        """Record an administrator's action in the events of all workers."""

        async def note(worker: Worker) -> None:
            await worker.read("/v1/note", {"event": event}, Peer(uid, pid))

        Deferred.fromCoroutine(self._fleet.gather(note)).addErrback(
            lambda failure: self._log.failure("cannot record the {event}", failure, event=event)
        )

    def status(self) -> dict[str, Any]:
        """Return the members of ``/v1/status`` that are the master's."""
        return {
            "name": self.origin.proxy,
            "kind": self.shown_kind,
            "version": __version__,
            "pid": os.getpid(),
            "worker": None,
            "boot": self.origin.boot,
            "started": format_time(microseconds_of(self._started)),
            "uptime": round(self.reactor.seconds() - self._begin, 6),
            "listen": list(self.daemon.addresses),
            "draining": self.daemon.phase in (Phase.DRAINING, Phase.STOPPED),
            "control": self.control,
            "web": self.web(),
        }


def merged_observation(
    reactor: Any,
    daemon: DaemonService,
    config: DaemonConfig,
    kind: str,
    template: DaemonService,
) -> MergedObservation:
    """Return what shows a master, which iterates over its workers.

    :param template: the daemon in one process, which is not started.
    """
    assert isinstance(template.companion, Observation)
    workers: Any = daemon
    return MergedObservation(reactor, daemon, config, kind, workers, template.companion)
