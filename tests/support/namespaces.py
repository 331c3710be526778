"""Machines in network namespaces, joined by links that a test cuts.

Each machine is a namespace; each network is a bridge in a namespace of its own. A link is a pair of
virtual Ethernet devices, of which one end is at the bridge: it is cut by taking that end down.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_numbers = itertools.count()


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")


def reason_against() -> str | None:
    """Return why there can be no namespaces with bridges here; ``None`` if there can."""
    name = f"np{os.getpid()}t{next(_numbers)}"
    try:
        ip("netns", "add", name)
    except FileNotFoundError:
        return "iproute2 is not installed (ip)"
    except OSError as error:
        return f"there is no right to make network namespaces: {error}"
    try:
        ip("-n", name, "link", "add", "b0", "type", "bridge")
        ip("-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    except OSError as error:
        return f"the kernel has no bridges or virtual links: {error}"
    finally:
        ip("netns", "del", name)
    return None


class Link:
    """Joins a machine to a network."""

    def __init__(self, name: str, hub: str, device: str) -> None:
        self.name = name
        self._hub = hub
        self._device = device

    def cut(self) -> None:
        ip("-n", self._hub, "link", "set", self._device, "down")

    def mend(self) -> None:
        ip("-n", self._hub, "link", "set", self._device, "up")


class Machine:
    """A namespace in which processes run.

    :ivar links: by the names of the networks.
    """

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self.links: dict[str, Link] = {}

    def start(
        self, command: Sequence[str], cwd: Path, environment: dict[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a process, whose number is that of the command itself."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


class Network:
    """Machines and the networks between them; all is gone at the end of the block."""

    def __init__(self) -> None:
        self._prefix = f"np{os.getpid()}n{next(_numbers)}"
        self._hub = f"{self._prefix}-hub"
        self._devices = itertools.count()
        self._bridges: dict[str, str] = {}
        self._namespaces: list[str] = []

    def __enter__(self) -> Network:
        self._add(self._hub)
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in self._namespaces:
            ip("netns", "del", namespace)

    def machine(self, name: str) -> Machine:
        """Return a new machine with a loopback interface."""
        namespace = f"{self._prefix}-{name}"
        self._add(namespace)
        return Machine(name, namespace)

    def join(self, machine: Machine, network: str, *addresses: str) -> Link:
        """Join a machine to a network.

        :param addresses: of the machine there, with the length of the prefix.
        """
        bridge = self._bridges.get(network)
        if bridge is None:
            bridge = self._bridges[network] = f"b{len(self._bridges)}"
            ip("-n", self._hub, "link", "add", bridge, "type", "bridge")
            ip("-n", self._hub, "link", "set", bridge, "up")
        device = f"v{next(self._devices)}"
        peer = ("peer", "name", network, "netns", machine.namespace)
        ip("-n", self._hub, "link", "add", device, "type", "veth", *peer)
        ip("-n", self._hub, "link", "set", device, "master", bridge, "up")
        for address in addresses:
            ip("-n", machine.namespace, "address", "add", address, "dev", network)
        ip("-n", machine.namespace, "link", "set", network, "up")
        link = Link(f"{machine.name}-{network}", self._hub, device)
        machine.links[network] = link
        return link

    def _add(self, namespace: str) -> None:
        ip("netns", "add", namespace)
        self._namespaces.append(namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
