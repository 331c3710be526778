"""The settings of the file server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import setting
from natproxy.daemon.rules import NamePatternTexts, ServiceURL, Size
from natproxy.settings import Choice, Seconds, Text, Texts, WholeNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class FileServerConfig(DaemonConfig):
    """The settings of the file server.

    :ivar files: path of the directory to serve, relative to the working directory; it must
        exist. ``None`` for ``./files``, which is created if it is missing. Or ``s3://BUCKET/PREFIX``.
    :ivar etag: what the etags of a directory's files are made of: ``file`` or ``content``.
    :ivar s3_endpoint: URL of the S3 service; ``None`` for that of the environment, or of AWS.
    :ivar cache: directory of a cache of objects, relative to the working directory; ``None`` for
        none.
    :ivar cache_size: bytes of the cache.
    :ivar hide: patterns of files and directories that are neither listed nor sent.
    :ivar timeout: seconds until an idle or stalled client is disconnected.
    :ivar relay: how large files are sent: ``auto``, ``copy`` or ``sendfile``.
    :ivar max_clients_per_host: connections of one host at once; 0 for no limit.
    """

    daemon: ClassVar[str] = "fileserver"
    table: ClassVar[str] = "fileserver"

    listen: tuple[str, ...] = setting(
        ("tcp:9001:interface=127.0.0.1",),
        Texts(),
        "Endpoint to listen on; may be repeated.",
        reloadable=False,
    )
    files: str | None = setting(
        None,
        Text(),
        "Directory to serve, or s3://BUCKET/PREFIX; without it ./files, which is created if it is"
        " missing.",
        reloadable=False,
        shown="`./files`",
    )
    etag: str = setting(
        "file",
        Choice("file", "content"),
        "What etags are made of: file: its inode and times; content: size, mtime and name, as"
        " copies of it on other servers have them.",
        # One server has one kind of etags, since a change interrupts every partial download.
        reloadable=False,
    )
    s3_endpoint: str | None = setting(
        None,
        ServiceURL(),
        "URL of the S3 service, if it is not that of AWS.",
        reloadable=False,
        shown="of the environment, or AWS",
    )
    cache: str | None = setting(
        None,
        Text(),
        "Directory of a cache of objects on a local disk; created if it is missing.",
        reloadable=False,
        shown="none",
    )
    cache_size: int = setting(
        10 << 30, Size(64 << 20), "Size of the cache: 10G, 512M.", reloadable=False
    )
    hide: tuple[str, ...] = setting(
        (),
        NamePatternTexts(),
        "Pattern of files and directories that are neither listed nor sent; may be repeated.",
    )
    timeout: float = setting(
        600.0, Seconds(), "Seconds until an idle or stalled client is disconnected."
    )
    relay: str = setting(
        "auto",
        Choice("auto", "copy", "sendfile"),
        "How large files are sent: auto, copy or sendfile.",
    )
    max_clients_per_host: int = setting(
        0,
        WholeNumber(0, unit="connections"),
        "Connections of one host at once; 0: no limit (its clients are proxies).",
    )
