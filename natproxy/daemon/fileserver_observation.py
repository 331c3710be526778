"""What shows a file server to its operators: see `natproxy.daemon.observation`."""

from __future__ import annotations

from natproxy.daemon.observation import Observation
from natproxy.daemon.service import DrainingService
from natproxy.fileserver.factory import FileServerFactory
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.metrics.fileserver import FileServerMetrics
from natproxy.server.access_log import AccessLog
from natproxy.server.command_log import CommandLines


class FileServerObservation(Observation):
    """Control socket, web endpoints and metrics of a file server."""

    shown_kind = "fileserver"

    def open_files(self) -> None:
        """Do nothing: there is no journal."""

    def log_ends(self, log: AccessLog | CommandLines) -> None:
        """Pass each command that ends to a log of lines."""
        self._factory.subscribe(log.finished)

    def stop_events(self) -> None:
        """Make no events of commands any more."""
        self._factory.stop_logging()

    def make_metrics(self) -> DaemonMetrics:
        """Return the metrics of the file server."""
        return FileServerMetrics(self._factory, self.origin)

    @property
    def _factory(self) -> FileServerFactory:
        assert isinstance(self.daemon, DrainingService)
        factory = self.daemon.factory
        assert isinstance(factory, FileServerFactory)
        return factory
