"""Checks of what the kernel limits: descriptors, ports, queues of listening sockets, pipes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from natproxy.daemon.doctor.finding import Finding, ok, problem, read_number, warning
from natproxy.kernel.ports import PortRange, read_port_range
from natproxy.kernel.sockets import TIME_WAIT, all_connections

UNLIMITED = 1 << 30
"""Stands for "unlimited" in a limit of a process."""

LARGE_PIPE = 1 << 20
"""Bytes of the largest pipe that a relay uses."""

PIPES = 16 << 20
"""Bytes of the first pipes, which are the largest."""


class Demand(NamedTuple):
    """How many clients a daemon is to have.

    :ivar daemon: its name, for the text.
    :ivar clients: clients at the same time.
    :ivar capacity: returns for how many clients a number of descriptors suffices.
    """

    daemon: str
    clients: int
    capacity: Callable[[int], int]


def check_descriptors(limits: str, demands: Sequence[Demand]) -> list[Finding]:
    """Compare the hard limit of open files with the clients that the daemons are to have.

    A daemon raises its soft limit to the hard one.

    :param limits: path of the limits of a process, such as ``/proc/self/limits``.
    """
    found = None
    try:
        with open(limits) as file:
            found = re.search(r"^Max open files\s+(\w+)\s+(\w+)", file.read(65_536), re.MULTILINE)
    except OSError:
        pass
    if found is None:
        return [warning("descriptors", f"{limits} cannot be read", "mount /proc")]
    soft, hard = (UNLIMITED if text == "unlimited" else int(text) for text in found.groups())
    findings = []
    for demand in demands:
        check = f"descriptors of the {demand.daemon}"
        clients = demand.capacity(hard)
        if clients >= demand.clients:
            findings.append(ok(check, f"{hard:,} suffice for {demand.clients:,} clients"))
            continue
        needed = hard
        while demand.capacity(needed) < demand.clients:
            needed *= 2
        low = hard // 2
        while needed - low > 1:
            middle = (low + needed) // 2
            low, needed = (
                (low, middle) if demand.capacity(middle) >= demand.clients else (middle, needed)
            )
        text = (
            f"the hard limit of {hard:,} (soft: {soft:,}) suffices for {clients:,} clients,"
            f" not for {demand.clients:,}"
        )
        remedy = f"LimitNOFILE={needed} in the unit, or ulimit -Hn {needed}"
        findings.append((problem if clients < 16 else warning)(check, text, remedy))
    return findings


class PortUse(NamedTuple):
    """The local ports of a range that are in use.

    :ivar used: ports of connections.
    :ivar waiting: ports of connections in TIME_WAIT alone.
    """

    used: int
    waiting: int


def ports_in_use(ports: PortRange, process: str) -> PortUse | None:
    """Count the ports of a range that are in use.

    :param process: directory of the process in ``/proc``.
    :return: ``None`` if the kernel does not show its connections.
    """
    used: set[int] = set()
    waiting: set[int] = set()
    try:
        for connection in all_connections(process):
            port = connection.local[1]
            if port in ports:
                (waiting if connection.state == TIME_WAIT else used).add(port)
    except OSError:
        return None
    return PortUse(len(used), len(waiting - used))


def check_ports(settings: str, process: str, clients: int) -> list[Finding]:
    """Compare the range of local ports with the clients of a proxy, and with those in use.

    :param settings: directory of ``ip_local_port_range``.
    :param process: as of `ports_in_use`.
    :param clients: of the proxy; each command under way needs a port.
    """
    check = "ports"
    ports = read_port_range(settings)
    if ports is None:
        text = f"{settings}/ip_local_port_range cannot be read"
        return [warning(check, text, "mount /proc, without subset=pid")]
    span = f"{ports.size:,} local ports ({ports.first} to {ports.last})"
    remedy = "sysctl -w net.ipv4.ip_local_port_range='10240 65535'; or an upstream on a UNIX socket"
    findings = []
    if ports.size < clients:
        findings.append(warning(check, f"{span} for {clients:,} clients of a proxy", remedy))
    use = ports_in_use(ports, process)
    if use is None:
        text = "the process's sockets cannot be seen, nor reconciled with the table"
        hidden = "mount /proc without subset=pid (ProcSubset= in a unit)"
        return [*findings, warning("sockets", text, hidden)]
    taken = use.used + use.waiting
    text = f"{taken:,} of {span} are in use, {use.waiting:,} of them in TIME_WAIT"
    if taken * 20 > ports.size * 19:
        findings.append(problem(check, text, remedy))
    elif taken * 5 > ports.size * 4:
        findings.append(warning(check, text, remedy))
    elif not findings:
        findings.append(ok(check, text))
    return findings


def check_reuse(path: str) -> list[Finding]:
    """Check whether ports in TIME_WAIT can be used again.

    The proxy resets its upstream connections, which have no TIME_WAIT; other programs of the host
    share the range.

    :param path: of ``tcp_tw_reuse``.
    """
    check = "TIME_WAIT"
    value = read_number(path)
    texts = {1: "ports are used again", 2: "ports are used again on the loopback interface"}
    if value in texts:
        return [ok(check, texts[value])]
    if value is None:
        return [warning(check, f"{path} cannot be read", "mount /proc, without subset=pid")]
    text = "ports of closed connections are not used again for 60 seconds"
    return [warning(check, text, "sysctl -w net.ipv4.tcp_tw_reuse=2")]


BACKLOG = 50
"""The queue of an endpoint without ``backlog=``."""


def check_backlog(path: str, endpoints: Sequence[str]) -> list[Finding]:
    """Compare the queues of listening endpoints with the kernel's limit.

    :param path: of ``somaxconn``.
    :param endpoints: endpoint strings.
    """
    check = "backlog"
    most = read_number(path)
    if most is None:
        return [warning(check, f"{path} cannot be read", "mount /proc, without subset=pid")]
    findings = []
    for endpoint in endpoints:
        found = re.search(r":backlog=(\d{1,9})(?::|$)", endpoint)
        wanted = int(found[1]) if found else BACKLOG
        if wanted > most:
            text = f"{endpoint}: the kernel lets {most:,} connections wait, not {wanted:,}"
            findings.append(warning(check, text, f"sysctl -w net.core.somaxconn={wanted}"))
        else:
            text = f"{endpoint}: {wanted:,} connections may wait; the kernel allows {most:,}"
            findings.append(ok(check, text))
    return findings


def check_pipes(soft: str, largest: str, page: int, privileged: bool) -> list[Finding]:
    """Check whether the pipes of spliced bodies may be large.

    :param soft: path of ``pipe-user-pages-soft``.
    :param largest: path of ``pipe-max-size``.
    :param page: bytes of a page.
    :param privileged: whether the user has no such limits.
    """
    check = "pipes"
    pages, size = read_number(soft), read_number(largest)
    if pages is None or size is None:
        return [warning(check, f"{soft} cannot be read", "mount /proc, without subset=pid")]
    if privileged:
        return [ok(check, "root may have pipes of any size")]
    findings = []
    if pages and pages * page < PIPES:
        text = f"the pipes of a user may hold {pages * page >> 10:,} KiB; spliced bodies are slower"
        remedy = f"sysctl -w fs.pipe-user-pages-soft={PIPES // page}"
        findings.append(warning(check, text, remedy))
    if size < LARGE_PIPE:
        text = f"a pipe may hold {size >> 10:,} KiB; spliced bodies are slower"
        findings.append(warning(check, text, f"sysctl -w fs.pipe-max-size={LARGE_PIPE}"))
    return findings or [ok(check, "16 pipes of 1 MiB are possible")]
