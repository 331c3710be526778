"""A link between two network namespaces with delay, rate, queue and loss, which can be cut.

``python -m tests.support.wan NAMESPACE DEVICE NAMESPACE DEVICE`` makes a TUN device in each of two
namespaces and carries packets between them. Each line of its standard input is a JSON object with
the conditions from then on, see `Conditions`. It writes ``ready`` when the devices are there, and
ends with its standard input.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from typing import NamedTuple

from tests.support.namespaces import Machine, ip
from tests.support.twistd import environment

MTU = 9000
"""Bytes of a packet: fewer and larger ones than those of Ethernet cost less here."""

MOST = 64
"""Packets that are read at once from a device."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001


class Conditions(NamedTuple):
    """What a link does to packets, in either direction.

    :ivar delay: seconds for the distance.
    :ivar rate: bytes a second.
    :ivar queue: bytes that wait at most for their turn; what arrives then is lost.
    :ivar loss: the part of the packets that is lost.
    :ivar cut: whether all are lost.
    """

    delay: float = 0.001
    rate: float = 50_000_000
    queue: int = 1_000_000
    loss: float = 0.0
    cut: bool = False


class Wan:
    """A link that runs as a process.

    :param name: of both devices.
    :ivar conditions: the present ones.
    """

    def __init__(self, name: str, ends: tuple[Machine, Machine]) -> None:
        self.name = name
        self.conditions = Conditions()
        names = [word for end in ends for word in (f"/run/netns/{end.namespace}", name)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.wan", *names],
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        for end in ends:
            device = "dev", name
            ip("-n", end.namespace, "link", "set", *device, "mtu", str(MTU), "txqueuelen", "5000")
            ip("-n", end.namespace, "link", "set", *device, "up")
            end.links[name] = self  # type: ignore[assignment]

    def change(self, conditions: Conditions) -> None:
        """Have other conditions from now on."""
        self.conditions = conditions
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(conditions._asdict()) + "\n")

    def close(self) -> None:
        """Remove the devices."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


class _Direction:
    """Packets on their way from one device to the other."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self._target = target
        self._packets: deque[tuple[float, bytes]] = deque()
        self._free_at = self._last = 0.0
        self._random = random.Random()

    def due(self) -> float | None:
        """Return when the next packet arrives."""
        return self._packets[0][0] if self._packets else None

    def take(self, conditions: Conditions) -> None:
        """Take packets from the source."""
        for _ in range(MOST):
            try:
                packet = os.read(self.source, MTU + 100)
            except BlockingIOError:
                return
            now = time.monotonic()
            begin = max(now, self._free_at)
            full = (begin - now) * conditions.rate > conditions.queue
            if conditions.cut or full or self._random.random() < conditions.loss:
                continue
            self._free_at = begin + len(packet) / conditions.rate
            # In order, also when the delay becomes shorter.
            self._last = max(self._last, self._free_at + conditions.delay)
            self._packets.append((self._last, packet))

    def deliver(self, conditions: Conditions) -> None:
        """Deliver what is due."""
        now = time.monotonic()
        while self._packets and self._packets[0][0] <= now:
            _, packet = self._packets.popleft()
            if not conditions.cut:
                try:
                    os.write(self._target, packet)
                except BlockingIOError:
                    pass
                except OSError:
                    # The device is down.
                    return


def _device(namespace: str, name: str) -> int:
    """Make a TUN device; return its descriptor."""
    library = ctypes.CDLL(None, use_errno=True)
    with open(namespace) as file:
        if library.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    return device


def main() -> None:
    """Carry packets until the end of standard input."""
    ends = [_device(*sys.argv[1:3]), _device(*sys.argv[3:5])]
    directions = [_Direction(ends[0], ends[1]), _Direction(ends[1], ends[0])]
    conditions = Conditions()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    lines = b""
    while True:
        dues = [due for due in (one.due() for one in directions) if due is not None]
        wait = max(0.0, min(dues) - time.monotonic()) if dues else None
        readable = select.select([0, *ends], [], [], wait)[0]
        if 0 in readable:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *complete, lines = (lines + data).split(b"\n")
            for line in complete:
                conditions = Conditions(**json.loads(line))
        for one in directions:
            if one.source in readable:
                one.take(conditions)
            one.deliver(conditions)


def reason_against() -> str | None:
    """Return why there can be no such link here; ``None`` if there can."""
    try:
        # The file may exist without the driver.
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as failure:
        return f"there are no TUN devices: {failure}"
    return None


if __name__ == "__main__":
    main()
