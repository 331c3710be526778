"""Checks of the features of the kernel that are used, of the clock, and of optional packages."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from natproxy.daemon.doctor.finding import Finding, ok, problem, warning
from natproxy.extras import install_command

NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
"""The option of Linux 4.2 with which a port is chosen by ``connect``."""

NOWAIT = getattr(os, "RWF_NOWAIT", 0)

UNSYNCHRONIZED = 5
"""``TIME_ERROR``, the state of ``adjtimex`` for a clock that nothing sets."""

EARLIEST = 1_704_067_200.0
"""2024: a wall clock before it was never set."""

DRIFT = 0.02
"""Seconds by which two clocks may differ over the time of a check."""

EXTRAS = {
    "tls": ("OpenSSL", "service_identity"),
    "cli": ("argcomplete", "prompt_toolkit", "rich"),
    "config": ("tomllib",),
    "fsspec": ("fsspec",),
    "postgres": ("psycopg",),
    "s3": ("botocore",),
    "metrics": ("prometheus_client",),
}
"""The packages of each optional extra."""


def check_openat2(supported: Callable[[], bool]) -> list[Finding]:
    """Check whether the kernel confines paths to the served directory.

    :param supported: returns whether ``openat2`` is available.
    """
    if supported():
        return [ok("openat2", "the kernel confines names to the served directory")]
    text = "not available: symbolic links in the served directory are not followed"
    return [warning("openat2", text, "Linux 5.6, and a filter of system calls that permits it")]


def check_nowait(path: str, flag: int = NOWAIT) -> list[Finding]:
    """Check whether the kernel reports what it has of a file in memory.

    :param path: of any file with content, on the file system to check.
    :param flag: of ``preadv2``; 0 where there is none.
    """
    check = "RWF_NOWAIT"
    remedy = "serve files from ext4, xfs or btrfs, with Linux 4.14 or newer"
    if not flag:
        return [warning(check, "not available: every read of a file takes a thread", remedy)]
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return [warning(check, f"{path} cannot be read: {error.strerror}", "check the path")]
    try:
        os.preadv(file, [bytearray(1)], 0, flag)
    except BlockingIOError:
        pass
    except OSError:
        text = f"not supported on the file system of {path}: reads of its files take a thread"
        return [warning(check, text, remedy)]
    finally:
        os.close(file)
    return [ok(check, "files that are in memory are sent without a thread")]


def check_no_port(option: int = NO_PORT) -> list[Finding]:
    """Check whether a socket may be bound to an address and get its port later."""
    check = "IP_BIND_ADDRESS_NO_PORT"
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.IPPROTO_IP, option, 1)
    except OSError as error:
        text = f"not available: {error.strerror}"
        return [warning(check, text, "Linux 4.2; only upstream endpoints with bindAddress need it")]
    return [ok(check, "ports of connections from a bound address are shared by destinations")]


def check_kernel(release: str) -> list[Finding]:
    """Check the version of the kernel: 5.6 has all features that are used.

    :param release: such as ``6.1.0-13-amd64``.
    """
    numbers = [int(text) if text.isdigit() else 0 for text in release.split("-")[0].split(".")[:2]]
    if numbers >= [5, 6]:
        return [ok("kernel", f"Linux {release}")]
    return [warning("kernel", f"Linux {release} lacks features", "use Linux 5.6 or newer")]


def clock_state() -> int:
    """Return the state of the system's clock (``adjtimex``), without setting it.

    :raises OSError: if it is not available.
    """
    # The structure has 208 bytes on 64-bit systems; nothing is set if all are 0.
    buffer = ctypes.create_string_buffer(1024)
    library = ctypes.CDLL(None, use_errno=True)
    state = int(library.adjtimex(buffer))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state


def check_clock(
    state: Callable[[], int],
    wall: Callable[[], float],
    monotonic: Callable[[], float],
    sleep: Callable[[float], object],
) -> list[Finding]:
    """Check the clock: the log and the journal have its times.

    :param state: see `clock_state`.
    :param wall: returns seconds since the epoch.
    :param monotonic: returns seconds of the monotonic clock.
    :param sleep: waits for some seconds.
    """
    check = "clock"
    remedy = "run a time service, such as chrony or systemd-timesyncd"
    findings = []
    before = wall() - monotonic()
    sleep(0.05)
    step = wall() - monotonic() - before
    if wall() < EARLIEST:
        findings.append(problem(check, "the clock was never set: it is before 2024", remedy))
    if abs(step) > DRIFT:
        text = f"the wall clock was set by {step:+.3f} s during the check"
        findings.append(warning(check, text, "let a time service adjust it gradually"))
    try:
        unsynchronized = state() == UNSYNCHRONIZED
    except (OSError, AttributeError):
        findings.append(warning(check, "its state cannot be read (adjtimex)", remedy))
    else:
        if unsynchronized:
            text = "not synchronized: times of different hosts cannot be compared"
            findings.append(warning(check, text, remedy))
    return findings or [ok(check, "synchronized")]


def check_extras(
    needed: Sequence[str], installed: Callable[[str], object] = find_spec
) -> list[Finding]:
    """Check which optional packages are installed.

    :param needed: extras that the settings need.
    :param installed: returns something if a package is installed.
    """
    findings = []
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if not installed(package)]
        if extra == "config" and missing and installed("tomli"):
            missing = []
        check = f"extra {extra}"
        remedy = install_command(extra)
        if not missing:
            findings.append(ok(check, "installed"))
        elif extra in needed:
            text = f"a setting needs it, and it is not installed ({', '.join(missing)})"
            findings.append(problem(check, text, remedy))
        else:
            findings.append(ok(check, f"not installed ({', '.join(missing)}): {remedy}"))
    return findings
