"""What an fsspec file system shows of files and directories: metadata and listings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

from fsspec.spec import AbstractFileSystem
from fsspec.utils import tokenize

from natproxy.fs.commands import Commands
from natproxy.fs.listing import datetime_of, depth_of, describe, walk


class TreeFileSystem(AbstractFileSystem):
    """A file system whose files and directories can be listed; a subclass reads the files."""

    _commands: Commands
    """Of the server."""

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return the name, size in bytes, type, mtime and etag of a file or directory.

        ``mtime`` is in seconds since the epoch, as in fsspec's local file system.
        """
        name = self._strip_protocol(path)
        return describe(name, self._commands.metadata(name))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """Return the entries of a directory; of a file, itself."""
        entries = self._commands.list(self._strip_protocol(path), 1)
        return entries if detail else [entry["name"] for entry in entries]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the files below a directory, found by one listing; none if it does not exist."""
        name = self._strip_protocol(path)
        found = {}
        try:
            entries = self._commands.list(name, depth_of(maxdepth))
            if withdirs and [entry["name"] for entry in entries] != [name]:
                found[name] = self.info(name)
        except FileNotFoundError:
            entries = []
        for entry in entries:
            if withdirs or entry["type"] != "directory":
                found[entry["name"]] = entry
        return dict(sorted(found.items())) if detail else sorted(found)

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield each directory with its entries, as ``os.walk`` does; all come from one listing."""
        detail = kwargs.pop("detail", False)
        top, depth = self._strip_protocol(path), depth_of(maxdepth)
        try:
            entries = self._commands.list(top, depth)
        except OSError as error:
            if on_error == "raise":
                raise
            if callable(on_error):
                on_error(error)
            return
        yield from walk(top, entries, depth, topdown, detail)

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the size in bytes of the files below a directory: the sum, or that of each."""
        found = self.find(path, maxdepth, withdirs, detail=True)
        sizes = {name: details["size"] for name, details in found.items()}
        return sum(sizes.values()) if total else sizes

    def expand_path(
        self, path: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the paths that match; a pattern that matches nothing may be a name."""
        try:
            found: list[str] = super().expand_path(path, recursive, maxdepth, **kwargs)
        except FileNotFoundError:
            if not isinstance(path, str) or recursive or not self.exists(path):
                raise
            return [self._strip_protocol(path)]
        return found

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether a file or directory exists; raise ``OSError`` if the server fails."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Return whether it is a directory."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Return whether it is a file."""
        return self._type(path) == "file"

    def checksum(self, path: str) -> int:
        """Return a number that changes whenever the file may have changed."""
        return int(tokenize(self.ukey(path)), 16)

    def ukey(self, path: str) -> str:
        """Return the etag."""
        etag: str = self.info(path)["etag"]
        return etag

    def modified(self, path: str) -> datetime:
        """Return the time of last writing, in UTC, to the microsecond.

        A time before or after those of ``datetime`` becomes the first or the last of them.
        """
        return datetime_of(self._commands.metadata(self._strip_protocol(path)).mtime_ns)

    def created(self, path: str) -> NoReturn:
        """Raise ``NotImplementedError``: the server does not report it."""
        raise NotImplementedError("natproxy does not report when a file was created")

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None
