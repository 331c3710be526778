"""What shows a proxy to its operators: also its table, the ring of its events, and its journal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from natproxy.control.interfaces import History, Observed
from natproxy.control.table import LocalTable
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.descriptors import Observers
from natproxy.daemon.endpoints import listening_endpoints
from natproxy.daemon.listening import address_text
from natproxy.daemon.observation import Observation
from natproxy.daemon.observers import ObserverFactory
from natproxy.daemon.places import PlaceError, prepare_journal
from natproxy.daemon.proxy_config import ALL_NAMES, ProxyConfig
from natproxy.daemon.service import DrainingService, StartupError, open_ports
from natproxy.journal.files import Share
from natproxy.metrics.proxy import ProxyMetrics, Recorders
from natproxy.nat import Failed
from natproxy.nat.ring import EventRing
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.ident import IdentFactory
from natproxy.records.places import NONE, journal_directory
from natproxy.server.access_log import AccessLog
from natproxy.server.command_log import CommandLines

if TYPE_CHECKING:
    from natproxy.control.json_resource import Context
    from natproxy.journal.service import JournalService
    from natproxy.web.merged_rates import WorkerRates


class ProxyObservation(Observation):
    """Control socket, web endpoints, metrics, journal and ident service of a proxy.

    :param factory: has the table.
    :ivar journal: ``None`` if there is none.
    """

    shown_kind = "proxy"

    def __init__(
        self,
        reactor: Any,
        daemon: DrainingService,
        factory: ProxyFactory,
        config: ProxyConfig,
        kind: str,
        observers: Observers,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reactor, daemon, config, kind, observers, environ)
        self.journal: JournalService | None = None
        self._rates: WorkerRates | None = None
        self._proxy_config = config
        self._factory = factory
        self._ring: EventRing | None = None
        self._ident_endpoints = listening_endpoints(reactor, config, "ident")
        self.endpoints += self._ident_endpoints
        self._ident = ObserverFactory(reactor, observers.ident, "ident service")
        self._ident.serve(IdentFactory(factory.table, reactor))
        self._ident_ports: list[IListeningPort] = []
        # The working directory may change before the journal is opened.
        named = config.journal not in (None, NONE)
        self._journal_path = os.path.abspath(config.journal or "") if named else None

    def _use(self, config: DaemonConfig) -> None:
        super()._use(config)
        assert isinstance(config, ProxyConfig)
        self._proxy_config = config
        if self.journal is not None:
            self.journal.retain(config.journal_keep, config.journal_max_size)

    def open_ports(self) -> None:
        """Open the ident service and the web endpoints, and record events from now on."""
        super().open_ports()
        self._factory.resources.upstreams.boot = self.origin.boot
        label = self.config.label("ident")
        self._ident_ports = open_ports(self._ident_endpoints, self._ident, label)
        config = self._proxy_config
        if config.journal != NONE:
            # Now, as in `Observation.open_ports`.
            import natproxy.journal.history
            import natproxy.journal.service  # noqa: F401
        if config.control != NONE or config.web or config.journal != NONE:
            self._ring = EventRing(
                self._factory.table,
                self.origin,
                wall_clock=self.wall_clock,
                every_name=config.journal_names == ALL_NAMES,
            )

    def start(self) -> None:
        """Log the ident service as well."""
        super().start()
        for port in self._ident_ports:
            self._log.info("ident service: {address}", address=address_text(port.getHost()))

    def make_metrics(self) -> ProxyMetrics:
        """Return the metrics of the proxy."""
        return ProxyMetrics(self._factory, self.origin)

    def log_ends(self, log: AccessLog | CommandLines) -> None:
        """Pass each command that ends to a log of lines."""
        table = self._factory.table
        table.count(log.removed)
        table.subscribe(log.failed, (Failed,))

    def stop_events(self) -> None:
        """Make no events of commands any more."""
        self._factory.stop_logging()

    def open_files(self) -> None:
        """Open the journal.

        :raises StartupError: if one that was configured cannot be opened.
        """
        if self._proxy_config.journal == NONE:
            if not self.origin.worker:
                self._note_off()
        else:
            self._open_journal()
        if isinstance(self.metrics, ProxyMetrics):
            self.metrics.recorders = Recorders(self._ring, self.journal)

    def cancel_start(self) -> None:
        """Close the ident service as well."""
        super().cancel_start()
        ports, self._ident_ports = self._ident_ports, []
        for port in ports:
            port.stopListening()

    async def stop(self) -> None:
        """Write the journal to its end, then close the rest."""
        if self.journal is not None:
            await self.journal.stopService()
        if self._rates is not None:
            self._rates.stop()
        ports, self._ident_ports = self._ident_ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        await self._ident.close()
        await super().stop()
        if self._ring is not None:
            self._ring.close()

    def observed(self) -> Observed:
        """Return what the resources show."""
        observed = super().observed()
        assert self._ring is not None
        table = LocalTable(self._factory.table, self._ring, self.reactor.seconds, self.wall_clock)
        observed.table = table
        observed.ring = self._ring
        observed.history = self._history(table)
        if isinstance(self.metrics, ProxyMetrics):
            observed.reconcile = self.metrics.reconcile
        if self.share.workers > 1 and self.journal is not None:
            observed.flush = partial(self._flush, self.journal)
        return observed

    def _position(self, ring: EventRing) -> str:
        """Return the place of the last event, after which a reader may continue."""
        return f"{self.origin.worker}:{ring.next - 1}:{self.origin.boot}"

    def serve(self, context: Context) -> None:
        """Serve the resources; a worker has the rates for its master's page as well."""
        if self.share.workers == 1:
            super().serve(context)
            return
        from natproxy.control.resources import resources_of
        from natproxy.control.site import control_site
        from natproxy.web.merged_rates import WorkerRates

        self._rates = WorkerRates(context)
        resources = [*resources_of(context, actions=True), self._rates]
        self._controllers.serve(control_site(context, resources))

    @staticmethod
    def _flush(journal: JournalService) -> Deferred[int]:
        """Write the journal; return until when it is complete."""
        return journal.flush().addCallback(lambda _: journal.complete_to)

    def status(self) -> dict[str, Any]:
        """Return the members of ``/v1/status``."""
        ring, journal = self._ring, self.journal
        return {
            **super().status(),
            "upstream": " ".join(one.endpoint for one in self._proxy_config.upstream),
            "table": len(self._factory.table),
            "ring": None if ring is None else {"first": ring.first, "next": ring.next},
            "position": None if ring is None else self._position(ring),
            "journal": None if journal is None else journal.status().json(),
        }

    def _history(self, table: LocalTable) -> History:
        assert self._ring is not None
        journal = self.journal
        if journal is None:
            from natproxy.control.recent import RingHistory

            return RingHistory(self.reactor, self._ring, table, self.wall_clock)
        from natproxy.journal.history import JournalHistory

        return JournalHistory(
            self.reactor,
            journal,
            journal.directory,
            table,
            wall_clock=self.wall_clock,
            share=self._journal_share(),
        )

    def _open_journal(self) -> None:
        """Start the journal.

        :raises StartupError: if the directory that was configured cannot be used.
        """
        from natproxy.journal.service import JournalError, JournalService, JournalSettings

        config = self._proxy_config
        assert self._ring is not None
        explicit = self._journal_path is not None
        path = self._journal_path or self._default_directory()
        try:
            if path is None:
                raise PlaceError("neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set")
            prepare_journal(path, parents=not explicit)
            settings = JournalSettings(
                config.journal_keep, config.journal_max_size, config.journal_names != NONE
            )
            journal = JournalService(
                self.reactor,
                self._ring,
                path,
                settings,
                wall_clock=self.wall_clock,
                share=self._journal_share(),
            )
            journal.startService()
        except (PlaceError, JournalError) as error:
            label = config.label("journal")
            if explicit:
                raise StartupError(f"{label} {path}: {error}") from error
            self._log.warn(
                "no journal: {reason}; choose a directory with {label}, or none",
                reason=f"{path}: {error}" if path else error,
                label=label,
            )
        else:
            self.journal = journal
            self._log.info("journal: {path}", path=path)

    def _journal_share(self) -> Share:
        """Return which segments of the journal are those of this process."""
        return Share(self.share.number, self.share.workers)

    def _note_off(self) -> None:
        """Record in the journal of an earlier run that the daemon runs without it."""
        path = self._default_directory()
        if path is not None and os.path.isdir(path):
            from natproxy.journal.directory import JournalError, note_off

            try:
                note_off(path, self.wall_clock())
            except JournalError as error:
                self._log.warn("{reason}", reason=error)

    def _default_directory(self) -> str | None:
        return journal_directory(self.environ, os.geteuid(), self.origin.proxy)
