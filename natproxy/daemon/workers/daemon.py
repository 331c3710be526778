"""Makes a daemon of as many processes as its config has workers."""

from __future__ import annotations

from typing import Any

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.rules import worker_count
from natproxy.daemon.service import DaemonService, DrainingService
from natproxy.daemon.workers.master import MasterService
from natproxy.daemon.workers.reload import reload_together
from natproxy.settings import SettingError


def of_processes(
    reactor: Any, daemon: DrainingService, config: DaemonConfig, kind: str
) -> DaemonService:
    """Return a daemon of as many processes as a config has workers.

    :param daemon: the daemon in one process. It is returned for one worker; else it is not started.
    :param kind: ``proxy``, ``fileserver`` or ``up``.
    :raises SettingError: if a setting cannot be used with several workers.
    """
    workers = worker_count(config.workers)
    if workers == 1:
        return daemon
    if isinstance(config, ProxyConfig) and config.ident is not None:
        raise SettingError(
            f"{config.label('ident')} {config.ident}: a proxy of several workers has no ident"
            f" service; set {config.label('workers')} to 1"
        )
    # It needs twisted.web, which a daemon in one process imports only for its observers.
    from natproxy.daemon.merged_observation import merged_observation

    master = MasterService(reactor, daemon, config, kind, workers)
    master.companion = merged_observation(reactor, master, config, kind, daemon)
    reload_together(reactor, master)
    return master
