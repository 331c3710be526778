"""What one end of a TLS connection trusts, and what it shows."""

from __future__ import annotations

from typing import NamedTuple


class TLSOptions(NamedTuple):
    """How a client verifies a server, and which certificate it shows; all paths are PEM files.

    :ivar ca: path of the certificates of the authorities that are trusted, a file or a directory
        of ``.pem`` files; ``None`` for those of the system.
    :ivar cert: path of the certificate to show, with those of its authorities after it.
    :ivar key: path of its private key, which must not be encrypted; ``None`` if ``cert`` has it
        as well.
    :ivar insecure: whether any certificate of the server is accepted, whatever its name: who
        controls the network can then read and change everything.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
