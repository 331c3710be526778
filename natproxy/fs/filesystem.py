"""The files of a server as an fsspec file system."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any, NoReturn

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike

from natproxy.address import DEFAULT_PORT, SCHEME, SECURE_PORT, SECURE_SCHEME, Address
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError
from natproxy.client.requests import as_name
from natproxy.client.retry import RETRY_FOR, RetryPolicy, parse_duration
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.output import WholeWriter
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest
from natproxy.client.transfer.stream import stream
from natproxy.client.url import is_url
from natproxy.fs.caches import GrowingReadAhead
from natproxy.fs.commands import Commands
from natproxy.fs.copies import copies_of, make_copies, progress_of
from natproxy.fs.errors import file_changed, local_path, os_error
from natproxy.fs.file import NatproxyFile
from natproxy.fs.ranges import GAP, Piece, raise_first, ranges_of, read_ranges
from natproxy.fs.tree import TreeFileSystem
from natproxy.fs.url import Environment, default_server, options_of, path_of, token_for, url_of
from natproxy.protocol import DIRECTORY
from natproxy.tls.options import TLSOptions

CALL_RETRY_FOR = 60.0
"""Seconds without progress for which a call that reads or lists is retried by default."""


class NatproxyFileSystem(TreeFileSystem):
    """The files that a natproxy proxy or file server serves; read-only. Threads may share it.

    :param host: of the server; without it, ``$NATPROXY_SERVER`` names the host and the port.
    :param port: of the server.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection; without it, 10, or ``timeout``
        if that is shorter.
    :param retry_for: how long temporary failures are retried without progress: seconds, or
        ``"90s"``, ``"30m"``, ``"inf"``; without it, a minute, and 30 minutes for downloads.
    :param retries: consecutive failures before giving up, if that comes sooner.
    :param wait: whether to retry as well if the first connection to the server fails.
    :param connections: commands that one call sends at the same time, 1 or more.
    :param tls: whether to connect by TLS, as for ``natproxys://``.
    :param ca: path of the authorities that are trusted; without it, those of the system.
    :param cert: path of the certificate to show.
    :param key: path of its private key, if that is in another file.
    :param insecure: whether any certificate of the server is accepted.
    :param token: for the server; without it, ``$NATPROXY_TOKEN`` for the server that
        ``$NATPROXY_SERVER`` names. Neither a pickle nor JSON of the file system contains it.
    :param token_plain: whether it may be sent to another host without TLS that verifies the server.
    :raises ValueError: if an option is invalid, or if nothing names a server.
    """

    protocol = "natproxy"
    scheme = SCHEME
    # fsspec caches instances: one without a host belongs to the server that the environment named.
    _extra_tokenize_attributes = ("_environment",)
    _environment = Environment()
    # With a root, `get` treats the top directory as it does every other.
    root_marker = "/"

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        timeout: float = 60.0,
        retry_for: float | str | None = None,
        retries: int | None = None,
        wait: bool = False,
        connect_timeout: float | None = None,
        connections: int = 8,
        tls: bool = False,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        insecure: bool = False,
        *,
        token: str | None = None,
        token_plain: bool = False,
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        if int(connections) < 1:
            raise ValueError("connections must be at least 1")
        # The scheme `natproxys` always means TLS.
        wanted = bool(tls) or self.scheme == SECURE_SCHEME
        if host is None:
            self.server, secure = default_server(wanted)
        else:
            secure = wanted
            default = SECURE_PORT if secure else DEFAULT_PORT
            self.server = Address(host, default if port is None else int(port))
        options = TLSOptions(ca, cert, key, bool(insecure))
        if not secure and options != TLSOptions():
            raise ValueError("ca, cert, key and insecure need TLS: natproxys:// or tls=True")
        retry_seconds = None if retry_for is None else parse_duration(str(retry_for))
        most = None if retries is None else int(retries)
        for_calls = RetryPolicy(
            CALL_RETRY_FOR if retry_seconds is None else retry_seconds, most, bool(wait)
        )
        for_downloads = RetryPolicy(
            RETRY_FOR if retry_seconds is None else retry_seconds, most, bool(wait)
        )
        self._download = DownloadOptions(
            Existing.REPLACE, retry_policy=for_downloads, concurrent=True
        )
        connect_within = None if connect_timeout is None else float(connect_timeout)
        self._commands = Commands(
            self.server,
            float(timeout),
            connect_within,
            for_calls,
            int(connections),
            options if secure else None,
            token_for(self.server, token, bool(token_plain)),
        )

    def __reduce__(self) -> Any:
        reconstruct, (cls, args, options), *rest = super().__reduce__()
        return (reconstruct, (cls, args, _without_token(options)), *rest)

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return the parameters for JSON, without the token."""
        return _without_token(super().to_dict(**options))

    @property
    def session(self) -> Session:
        """The connections of this process."""
        return self._commands.session

    @property
    def fsid(self) -> str:
        """An identifier of the server."""
        return f"{self.scheme}{self.server}"

    def close(self) -> None:
        """Close idle connections; others are opened when they are needed."""
        self.session.close()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return path_of(path)

    @staticmethod
    def _get_kwargs_from_urls(path: Any) -> dict[str, Any]:
        return options_of(path)

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        if is_url(name):
            return name
        return url_of(self.server, self._strip_protocol(name), self.scheme)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return the bytes of a file from one offset to another; both count as in a slice."""
        name = self._strip_protocol(path)
        if (start or 0) >= 0 and (end or 0) >= 0:
            return self.read_range(name, start or 0, end)
        metadata = self._commands.metadata(name)
        first, last, _ = slice(start, end).indices(metadata.size)
        return self.read_range(name, first, last, metadata.etag)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Return ranges of files, read at the same time; those of one file are of one version.

        :param max_gap: bytes between two ranges up to which they are read as one; `GAP` by default.
        :return: the bytes of each, or its error unless ``on_error`` is ``"raise"``.
        """
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        ranges = ranges_of([self._strip_protocol(path) for path in paths], starts, ends)
        commands = self._commands
        gap = GAP if max_gap is None else max_gap
        results = read_ranges(ranges, gap, commands.metadata, commands.read, commands.run_at_once)
        if on_error == "raise":
            raise_first(results)
        return results

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """Return the bytes of a file, or those of several by name, read at the same time."""
        paths = self.expand_path(path, recursive=recursive)
        if not isinstance(path, list) and paths == [self._strip_protocol(path)] and not recursive:
            return self.cat_file(paths[0], **kwargs)
        commands = self._commands
        # A part of each file is read by a command of its own.
        found = {} if kwargs else commands.read_several(paths)
        others = [one for one in paths if one not in found]
        if recursive:
            directories = commands.run_at_once([partial(self.isdir, one) for one in others])
            pairs = zip(others, directories, strict=True)
            others = [one for one, directory in pairs if directory is not True]
        read = commands.run_at_once([partial(self.cat_file, one, **kwargs) for one in others])
        found.update(zip(others, read, strict=True))
        bodies = {one: found[one] for one in paths if one in found}
        if on_error == "raise":
            raise_first(bodies.values())
        elif on_error == "omit":
            return {one: each for one, each in bodies.items() if not isinstance(each, Exception)}
        return bodies

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Download files, or trees, as fsspec specifies; small files together.

        Each file is whole or not there; see `get_file`.
        """
        copies = copies_of(self, rpath, lpath, recursive, maxdepth, kwargs)
        get_file = partial(self.get_file, **kwargs)
        make_copies(copies, self.session, self._download, callback, get_file)

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        """Download a file to a path, whole or not at all, or write it to an open file.

        If it fails, the bytes received so far are kept beside the path, and the next download
        resumes there.
        """
        name = self._strip_protocol(rpath)
        options = self._download
        progress = progress_of(callback)
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        try:
            if outfile is not None:
                # A copy: the stream reuses its memory, and the file may keep what is written.
                stream(
                    self.session,
                    as_name(name),
                    WholeWriter(outfile.write, copy=True),
                    options,
                    progress,
                )
                return
            local = local_path(lpath)
            metadata = self._commands.metadata(name)
            if metadata.type == DIRECTORY:
                os.makedirs(local, exist_ok=True)
                return
            wanted = DownloadRequest(as_name(name), local, metadata)
            Download(self.session, wanted, options, progress).run()
        except ClientError as error:
            raise os_error(error, name) from error

    def read_range(
        self, name: str, start: int, end: int | None = None, etag: str | None = None
    ) -> bytes:
        """Return the bytes of a file from one offset to another, as far as the file has them.

        :param end: the offset after the last; ``None`` for the end of the file.
        :raises FileChanged: if the file's etag is another.
        """
        return self._commands.read(name, start, end, etag)[0]

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str = GrowingReadAhead.name,
        **kwargs: Any,
    ) -> NatproxyFile:
        if mode != "rb":
            self._refuse(path)
        details = self.info(path)
        if details["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        # fsspec's cache `parts` holds bytes that were read before.
        for piece in ((cache_options or {}).get("data") or {}).values():
            if isinstance(piece, Piece) and piece.etag != details["etag"]:
                raise file_changed(path)
        # Of all callers, only fsspec's block cache passes a size.
        for_block_cache = "size" in kwargs and cache_type == "none"
        return NatproxyFile(
            self, path, details, block_size, cache_type, cache_options, for_block_cache
        )

    def _refuse(self, *arguments: Any, **kwargs: Any) -> NoReturn:
        raise OSError(errno.EROFS, "natproxy serves files read-only")

    mkdir = makedirs = rmdir = touch = pipe_file = put_file = cp_file = mv = _refuse
    rm = rm_file = _rm = _refuse


def _without_token(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "token"}


class SecureNatproxyFileSystem(NatproxyFileSystem):
    """The files of a server, which is connected to by TLS; see `NatproxyFileSystem`."""

    protocol = "natproxys"
    scheme = SECURE_SCHEME
