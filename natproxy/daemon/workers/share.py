"""Which part of a daemon a process is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorCore

from natproxy.daemon.certificates import is_listening_tls, listening_tls
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.endpoints import listening_endpoints
from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.workers.sockets import InheritedEndpoint, adopt


class Share(NamedTuple):
    """The share of a process in a daemon: all of it, or that of a worker.

    :ivar number: of the worker, from 0.
    :ivar workers: by how many processes limits are divided.
    :ivar boot: random text; the process. Empty if the process is to choose one.
    :ivar endpoints: the sockets that it inherits, in the order of the setting.
    """

    number: int = 0
    workers: int = 1
    boot: str = ""
    endpoints: tuple[InheritedEndpoint, ...] = ()

    @property
    def inherited(self) -> int:
        """Number of the descriptors that it inherits, and of those that it may adopt."""
        return 2 * sum(len(one.descriptors) for one in self.endpoints)

    def listening(self, reactor: Any, config: DaemonConfig) -> list[ListeningEndpoint]:
        """Return where the process listens.

        :raises SettingError: as of `listening_endpoints`.
        """
        if not self.endpoints:
            return listening_endpoints(reactor, config)
        inherited = iter(self.endpoints)
        return listening_endpoints(
            reactor,
            config,
            make=lambda reactor, _: WorkerEndpoint(reactor, next(inherited), self.number),
        )


ALONE = Share()
"""A daemon of one process."""


class WorkerEndpoint(ListeningEndpoint):
    """An endpoint of a worker: its sockets are open already.

    :param reactor: accepts connections.
    :param inherited: the sockets.
    :param worker: number of the worker.
    """

    def __init__(self, reactor: IReactorCore, inherited: InheritedEndpoint, worker: int) -> None:
        self.inherited = inherited
        self._reactor = reactor
        self._worker = worker
        super().__init__(reactor, inherited.description)

    def _parse(self, reactor: IReactorCore, description: str) -> None:
        # A socket of a service manager is not in the environment of a worker.
        if is_listening_tls(description):
            _, self.tls = listening_tls(reactor, description)

    def open_socket(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept connections from the worker's own socket; see `ListeningEndpoint.open_socket`."""
        return succeed(adopt(self._reactor, self.inherited, self._worker, factory))

    def adopt(self, worker: int, factory: IProtocolFactory) -> IListeningPort:
        """Accept connections from the socket of another worker, too.

        :param factory: as of ``listen``; it is wrapped.
        """
        return adopt(self._reactor, self.inherited, worker, self.wrap(factory))


class SiblingSockets:
    """The sockets of siblings that a worker accepts from meanwhile.

    :param endpoints: of the worker.
    :param factory: makes its connections.
    """

    def __init__(self, endpoints: Sequence[ListeningEndpoint], factory: IProtocolFactory) -> None:
        self._endpoints = [
            one for one in endpoints if isinstance(one, WorkerEndpoint) and not one.inherited.shared
        ]
        self._factory = factory
        self._ports: dict[int, list[IListeningPort]] = {}

    def adopt(self, worker: int) -> None:
        """Accept from the sockets of a sibling."""
        if worker not in self._ports:
            self._ports[worker] = [one.adopt(worker, self._factory) for one in self._endpoints]

    def release(self, worker: int) -> None:
        """Accept from them no more; connections that wait in their queues stay there."""
        for port in self._ports.pop(worker, ()):
            port.stopListening()

    def release_all(self) -> None:
        """Accept from no sibling's sockets any more."""
        for worker in list(self._ports):
            self.release(worker)
