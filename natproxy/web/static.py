"""The files of the page: scripts, styles, the icon."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from twisted.web import http
from twisted.web.http import Request
from twisted.web.resource import IResource

from natproxy.web.guard import Directory, Node, Refused

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

FOREVER = "public, max-age=31536000, immutable"
"""For paths with the digest of the files: what such a path leads to never changes."""

REVALIDATE = "no-cache"


class File(Node):
    """One file, in memory.

    :param name: its name; the suffix determines its type.
    :param body: its content.
    :param caching: value of ``Cache-Control``.
    """

    def __init__(self, name: str, body: bytes, caching: str) -> None:
        super().__init__()
        self._body = body
        self._type = TYPES[name[name.rindex(".") :]]
        self._caching = caching
        self._etag = f'"{sha256(body).hexdigest()[:32]}"'.encode()

    def render_GET(self, request: Request) -> bytes:
        """Return the file, or 304 if the browser has it."""
        request.setHeader("Cache-Control", self._caching)
        request.setHeader("Content-Type", self._type)
        if request.setETag(self._etag) is http.CACHED:
            return b""
        return self._body


class StaticFiles(Directory):
    """All files of a version, below a path that contains its digest.

    :ivar version: the digest.
    """

    def __init__(self) -> None:
        super().__init__()
        directory = files("natproxy.web") / "static"
        contents = {
            entry.name: entry.read_bytes()
            for entry in sorted(directory.iterdir(), key=lambda entry: entry.name)
            if entry.is_file()
        }
        digest = sha256()
        for name, body in contents.items():
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
        self.version = digest.hexdigest()[:16]
        self._contents = contents
        versioned = Directory()
        for name, body in contents.items():
            if not name.endswith(".html"):
                versioned.putChild(name.encode(), File(name, body, FOREVER))
        self.putChild(self.version.encode(), versioned)

    def page(self, name: str) -> File:
        """Return a page, with ``@version@`` in the paths of its files replaced."""
        body = self._contents[name].replace(b"@version@", self.version.encode())
        return File(name, body, REVALIDATE)

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Return the error for an unknown version."""
        return Refused(http.NOT_FOUND, "the daemon has another version: load the page again")
