"""The optional packages: what needs them, and how they are installed."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra."""
    return f"pip install 'natproxy[{extra}]'"


def missing(what: str, package: str, extra: str) -> str:
    """Return the message for a package that is not installed.

    :param what: what needs it: ``TLS``.
    :param package: its name.
    :param extra: the extra that it is part of.
    """
    return f"{what} needs {package}: {install_command(extra)}"


TLS = missing("TLS", "pyOpenSSL", "tls")
"""The message of both ends that are on a reactor."""
