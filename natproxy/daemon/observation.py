"""What shows a daemon to its operators: its control socket and its web endpoints.

`Observation` is the companion of a `DrainingService`. Listening sockets are opened with those of
the daemon, when its ports and so its name are known. Files are opened later, by the user that the
daemon runs as: the control socket, and a proxy's journal (`natproxy.daemon.proxy_observation`). At
the end the clients finish first, then the journal is written, and the control socket goes last, so
that its observers see all of it.

What only some daemons need is imported in functions: twisted.web and the filters for a control
socket or a web endpoint, SQLite for a journal. Without them a daemon starts sooner, and its process
is 6 MiB smaller.
"""

from __future__ import annotations

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from natproxy import __version__
from natproxy.control.interfaces import Observed
from natproxy.daemon.access_file import AccessFile
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.control_socket import ControlSocket, InheritedControl
from natproxy.daemon.descriptors import Observers
from natproxy.daemon.endpoints import listening_endpoints
from natproxy.daemon.listening import ListeningEndpoint, address_text
from natproxy.daemon.logfile import RotatingFile, SharedStream, Stream
from natproxy.daemon.observers import ObserverFactory
from natproxy.daemon.places import InUse, PlaceError, default_path, explicit_control, name_of
from natproxy.daemon.reload import Effect
from natproxy.daemon.service import DaemonService, DrainingService, Phase, StartupError, open_ports
from natproxy.daemon.workers.share import ALONE
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.records.places import NONE
from natproxy.records.record import Origin, format_time, microseconds_of
from natproxy.server.access_log import AccessLog
from natproxy.server.command_log import CommandLines
from natproxy.server.threads import Threads

if TYPE_CHECKING:
    from natproxy.control.json_resource import Context

STANDARD_OUTPUT = "-"
"""The access log's path for standard output."""


class Observation(ABC):
    """Control socket, web endpoints and metrics: a `natproxy.daemon.service.Companion`.

    :param reactor: the daemon's.
    :param daemon: the daemon.
    :param config: its settings.
    :param kind: ``proxy``, ``fileserver`` or ``up``, for its default name.
    :param observers: limits of its connections.
    :param environ: environment variables; by default, those of the process.
    :param wall_clock: returns seconds since the epoch.
    :raises SettingError: if a setting is wrong.
    :ivar origin: the daemon's name, worker and boot; set by `open_ports`.
    :ivar share: the part of the daemon that the process is.
    :ivar endpoints: of the parts that it shows, in addition to the daemon's.
    :ivar access: the file of the access log; ``None`` if there is none.
    :ivar metrics: are counted from `open_ports` on, if there is a place that shows them.
    """

    shown_kind: str
    """The kind in ``/v1/status``."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        daemon: DaemonService,
        config: DaemonConfig,
        kind: str,
        observers: Observers,
        environ: Mapping[str, str] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.reactor = reactor
        self.daemon = daemon
        self.config = config
        self.environ = os.environ if environ is None else environ
        self.wall_clock = wall_clock
        self.origin = Origin("", 0, "")
        self.share = ALONE
        self.metrics: DaemonMetrics | None = None
        self.access: AccessFile | None = None
        # The working directory may change before the file is opened.
        path = config.access_log
        self._access_path = path if path in (None, STANDARD_OUTPUT) else os.path.abspath(path)
        self._kind = kind
        self._explicit = explicit_control(config)
        self._web_endpoints = listening_endpoints(reactor, config, "web")
        self.endpoints = list(self._web_endpoints)
        self._controllers = ObserverFactory(reactor, observers.control, "control socket")
        self._visitors = ObserverFactory(reactor, observers.web, "web endpoint")
        self._web_ports: list[IListeningPort] = []
        self._control: ControlSocket | None = None
        self._inherited: InheritedControl | None = None
        self._started = wall_clock()
        self._begin = reactor.seconds()

    def prepare(self, config: DaemonConfig) -> Effect:
        """Prepare settings that are shown, or used later; see `natproxy.daemon.reload.Part`."""
        return partial(self._use, config)

    def _use(self, config: DaemonConfig) -> None:
        self.config = config

    def _certificate_expiry(self) -> float | None:
        endpoints = (*self.daemon.endpoints, *self.endpoints)
        times = [one.tls.expires.timestamp() for one in endpoints if one.tls is not None]
        return min(times, default=None)

    def open_ports(self) -> None:
        """Open the web endpoints; see `Companion`."""
        self.origin = self.make_origin()
        if self.config.control != NONE or self._web_endpoints:
            # Now: the user that the daemon is about to run as may not be able to read the program.
            import natproxy.metrics.resource
            import natproxy.web.site  # noqa: F401

            self.metrics = self.make_metrics()
            if self.metrics is not None:
                self.metrics.certificate_expiry = self._certificate_expiry
        self._web_ports = self.open_web()

    def open_web(self) -> list[IListeningPort]:
        """Return the ports of the web endpoints.

        :raises StartupError: if one cannot be opened.
        """
        return open_ports(self._web_endpoints, self._visitors, self.config.label("web"))

    def make_origin(self) -> Origin:
        """Return the origin of the process; the ports of the daemon are open."""
        name = name_of(self.config, self._kind, self.daemon.ports)
        return Origin(name, self.share.number, self.share.boot or secrets.token_hex(8))

    @property
    def control(self) -> str | None:
        """Path of the control socket; ``None`` if there is none."""
        return None if self._control is None else self._control.path

    @property
    def web_endpoints(self) -> list[ListeningEndpoint]:
        """Where the page is served."""
        return self._web_endpoints

    def start(self) -> None:
        """Open the control socket and other files, and serve what is observed; see `Companion`.

        The control socket is the first: if another daemon has the name, nothing else is touched.
        """
        if self.config.control != NONE:
            self._open_control()
        elif self._inherited is not None:
            self._inherited.close()
        self.log_commands()
        self.open_files()
        if self._control is None and not self._web_ports:
            return
        if self.metrics is not None:
            self.metrics.startService()
        from natproxy.control.json_resource import Context

        self.serve(Context(self.observed(), self.reactor, self.wall_clock))
        if self._control is not None:
            self._log.info("control socket: {path}", path=self.control)
        if self._web_ports:
            self._log.info("web endpoint: {addresses}", addresses=", ".join(self.web()))

    def serve(self, context: Context) -> None:
        """Serve the resources on the ports that are open."""
        from natproxy.control.site import control_site
        from natproxy.web.site import web_site

        if self._control is not None:
            self._controllers.serve(control_site(context))
        if self._web_ports:
            self._visitors.serve(web_site(context, self.config.web_hosts))

    async def stop(self) -> None:
        """Close everything, the control socket last; see `Companion`."""
        if self.access is not None:
            await self.access.stop()
        ports, self._web_ports = self._web_ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)
        await self._visitors.close()
        if self._control is not None:
            await self._control.close()
        await self._controllers.close()
        if self._control is not None:
            self._control.release()
        if self.metrics is not None:
            if self.metrics.running:
                await maybeDeferred(self.metrics.stopService)
            self.metrics.close()

    def reopen_logs(self) -> bool:
        """Open the access log again; see `Companion`."""
        if self.access is not None:
            self.access.reopen()
        return self.access is not None

    def log_commands(self) -> None:
        """Log the ends of commands as they are taken: as events, or for less as lines.

        :raises StartupError: as `_open_access_log`.
        """
        log = self.daemon.log
        events = log.structured or (self._access_path is None and log.writer is None)
        if self._access_path is not None:
            self.log_ends(self._open_access_log(self._access_path))
        elif log.writer is not None:
            self.log_ends(CommandLines(log.writer.note, self.wall_clock))
        if not (events and log.commands):
            self.stop_events()

    def _open_access_log(self, path: str) -> AccessLog:
        """Return the access log: a line for each command.

        :raises StartupError: if the file cannot be opened.
        """
        try:
            output = (
                self._standard_output()
                if path == STANDARD_OUTPUT
                else RotatingFile(path, size=0, blocking=True)
            )
        except OSError as error:
            label = self.config.label("access_log")
            raise StartupError(f"{label} {path}: {error.strerror}") from error
        self.access = access = AccessFile(
            self.reactor, output, Threads(self.reactor, 1, "access log"), self.wall_clock
        )
        if self.metrics is not None:
            self.metrics.access_lost = lambda: access.lost
        self._log.info("access log: {path}", path=path)
        return access.log

    def _standard_output(self) -> Stream:
        return Stream(1) if self.share.workers == 1 else SharedStream(1)

    @abstractmethod
    def log_ends(self, log: AccessLog | CommandLines) -> None:
        """Pass each command that ends to a log of lines."""

    @abstractmethod
    def stop_events(self) -> None:
        """Make no events of commands any more."""

    @abstractmethod
    def open_files(self) -> None:
        """Open what this kind of daemon has besides."""

    @abstractmethod
    def make_metrics(self) -> DaemonMetrics | None:
        """Return the metrics of the daemon, counted from now on; ``None`` if others do."""

    def cancel_start(self) -> None:
        """Close all ports: the daemon cannot start; see `Companion`."""
        ports, self._web_ports = self._web_ports, []
        for port in ports:
            port.stopListening()
        if self._control is not None:
            self._control.cancel()

    def observed(self) -> Observed:
        """Return what the resources show."""
        from natproxy.metrics.resource import metrics_resource

        observed = Observed(
            self.shown_kind,
            self.origin,
            self.status,
            self._reason_not_ready,
            lambda: self.daemon.end("drain requested on the control socket"),
            metrics=None if self.metrics is None else metrics_resource(self.metrics),
            reload=self._reload,
        )
        if self.share.workers > 1 and self.metrics is not None:
            observed.counted = partial(self._counted, self.metrics)
        return observed

    def _counted(self, metrics: DaemonMetrics) -> Deferred[dict[str, Any]]:
        """Return what a worker has counted, for its master."""
        from natproxy.metrics.merged import families_json
        from natproxy.metrics.process import process_families

        def counted(_: object) -> dict[str, Any]:
            families = [
                *metrics.families(),
                *process_families(metrics.prefix, self.origin.worker),
            ]
            return {
                "boot": self.origin.boot,
                "families": families_json(families),
                **self._counters(),
            }

        return metrics.refresh().addCallback(counted)

    def _reload(self, cause: str, dry_run: bool) -> Deferred[dict[str, Any]]:
        reloading = self.daemon.reload(cause, dry_run)
        return reloading.addCallback(lambda result: result.json(dry_run))

    def status(self) -> dict[str, Any]:
        """Return the members of ``/v1/status``."""
        daemon = self.daemon
        return {
            "name": self.origin.proxy,
            "kind": self.shown_kind,
            "version": __version__,
            "pid": os.getpid(),
            "worker": self.origin.worker,
            "boot": self.origin.boot,
            "started": format_time(microseconds_of(self._started)),
            "uptime": round(self.reactor.seconds() - self._begin, 6),
            "listen": list(daemon.addresses),
            "draining": daemon.phase in (Phase.DRAINING, Phase.STOPPED),
            "clients": self.clients(),
            **self._counters(),
            "access_log": None if self.access is None else self.access.status(),
            "control": self.control,
            "web": self.web(),
        }

    def clients(self) -> int:
        """Return how many clients are connected."""
        daemon = self.daemon
        return len(daemon.factory.connections) if isinstance(daemon, DrainingService) else 0

    def _counters(self) -> dict[str, Any]:
        """Return the members that the metrics have: commands, and the rest as ``counters``."""
        if self.metrics is None:
            return {"commands": None, "counters": None}
        counters = self.metrics.counters()
        commands = counters.pop("commands")
        shown = {member: commands.pop(member) for member in ("total", "sent", "verbs")}
        return {"commands": shown, "counters": {**counters, **commands}}

    def web(self) -> list[str]:
        """Return the addresses of the web endpoints."""
        return [address_text(port.getHost()) for port in self._web_ports]

    def _reason_not_ready(self) -> str | None:
        phase = self.daemon.phase
        return None if phase is Phase.LISTENING else f"the daemon is {phase.value}"

    def _open_control(self) -> None:
        """Listen on the control socket.

        :raises StartupError: if its name is in use, or a path that was configured cannot be used.
        """
        name = self.origin.proxy
        control = ControlSocket(self.reactor, self._controllers, self._control_path)
        inherited, self._inherited = self._inherited, None
        try:
            control.open(inherited)
        except InUse as error:
            if self._explicit is None:
                # In the background, twistd shows the first hundred bytes.
                raise StartupError(
                    f"name {name}: in use by {error}; choose another {self.config.label('name')}"
                ) from None
            raise StartupError(
                f"{self.config.label('control')} {control.path}: in use by {error}"
            ) from None
        except (PlaceError, OSError) as error:
            reason = str(getattr(error, "strerror", None) or error)
            if control.path:
                reason = f"{control.path}: {reason}"
            if self._explicit is not None:
                raise StartupError(f"{self.config.label('control')} {reason}") from error
            self._log.warn(
                "no control socket: {reason}; choose a path with {label}, or none",
                reason=reason,
                label=self.config.label("control"),
            )
        else:
            self._control = control

    def _control_path(self) -> str:
        """Return the path of the control socket; a default one has its directory.

        :raises PlaceError: if there is none.
        """
        return self._explicit or default_path(self.environ, os.geteuid(), self.origin.proxy)
