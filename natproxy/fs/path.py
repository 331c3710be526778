"""``UPath("natproxy://HOST:PORT/PATH")``; universal_pathlib imports it by its entry point.

The class has a module of its own because universal_pathlib is optional.
"""

from __future__ import annotations

from typing import Any

from upath import UPath

from natproxy.address import DEFAULT_PORT, SECURE_PORT, SECURE_SCHEME, Address, scheme_of
from natproxy.client.errors import UsageError
from natproxy.client.url import is_url, parse_url
from natproxy.fs.url import url_of


class NatproxyPath(UPath):
    """A path on a server; its text is a URL with the host and the port."""

    __slots__ = ()

    @classmethod
    def _transform_init_args(
        cls, args: tuple[Any, ...], protocol: str, storage_options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], str, dict[str, Any]]:
        text = args[0] if args and isinstance(args[0], str) else ""
        if is_url(text) and text[len(scheme_of(text)) :].startswith("["):
            # fsspec and universal_pathlib take "::" for the separator of a chain of URLs.
            try:
                server, path = parse_url(text)
            except UsageError as error:
                raise ValueError(str(error)) from error
            args = (url_of(server.address, f"/{path}", scheme_of(text)), *args[1:])
        return args, protocol, storage_options

    def __str__(self) -> str:
        text = super().__str__()
        host = self.storage_options.get("host")
        # A relative path has no scheme; without a host, the environment names the server.
        if host is None or not is_url(text):
            return text
        scheme = scheme_of(text)
        default = SECURE_PORT if scheme == SECURE_SCHEME else DEFAULT_PORT
        server = Address(host, int(self.storage_options.get("port", default)))
        return url_of(server, self.path, scheme)
