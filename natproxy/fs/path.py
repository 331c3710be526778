"""``UPath("natproxy://HOST:PORT/PATH")``: universal_pathlib finds it by its entry point."""

from __future__ import annotations

from typing import Any

from upath import UPath

from natproxy.address import DEFAULT_PORT, SCHEME, Address
from natproxy.client.errors import UsageError
from natproxy.client.url import parse_url
from natproxy.fs.url import url_of


class NatproxyPath(UPath):
    """A path on a server; its text is a URL with the host and the port."""

    __slots__ = ()

    @classmethod
    def _transform_init_args(
        cls, args: tuple[Any, ...], protocol: str, storage_options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], str, dict[str, Any]]:
        if args and isinstance(args[0], str) and args[0].lower().startswith(f"{SCHEME}["):
            # "::" in an IPv6 address would be taken for the link of a chain of URLs.
            try:
                server, path = parse_url(args[0])
            except UsageError as error:
                raise ValueError(str(error)) from error
            args = (url_of(server, f"/{path}"), *args[1:])
        return args, protocol, storage_options

    def __str__(self) -> str:
        text = super().__str__()
        host = self.storage_options.get("host")
        # The text of a relative path has no scheme; without a host, the environment names it.
        if host is None or not text.startswith(SCHEME):
            return text
        server = Address(host, int(self.storage_options.get("port", DEFAULT_PORT)))
        return url_of(server, self.path)
