"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def facts() -> dict[str, str]:
    """Give the machine and the versions that matter to all peers."""
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Twisted": package_version("twisted"),
        "natproxy": package_version("natproxy"),
    }


def file_system(path: Path) -> str:
    """Return the type of the file system that a directory is on, and whether ext4 has a journal."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "?"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            kind, source = after.split()[:2]
            if kind not in ("ext3", "ext4"):
                return kind
            name = Path(source).name
            journal = any(Path("/proc/fs/jbd2").glob(f"{name}-*"))
            return f"{kind}, {'with' if journal else 'without'} a journal"
    return "?"


def package_version(name: str) -> str:
    """Give the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def raise_descriptor_limit() -> int:
    """Let this process and its children open as many files as they may; give how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 1_000_000 if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (OSError, ValueError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft


def _cpu_model() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory() -> str:
    text = _field("/proc/meminfo", "MemTotal")
    return f"{int(text.split()[0]) / 1024**2:.1f} GiB" if text else "?"


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
