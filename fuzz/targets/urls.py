"""``natproxy://`` URLs and ``HOST:PORT``, as the command line, the API and fsspec read them."""

from __future__ import annotations

from fuzz.oracles import is_safe
from natproxy.address import Address, AddressError, is_loopback, scheme_of
from natproxy.client.errors import UsageError
from natproxy.client.url import check_server, is_url, parse_path, parse_server, parse_url
from natproxy.fs.url import options_of, path_of

WORDS = ("natproxy://", "natproxys://", "[::1]", "%25", ":9000")


def check(data: bytes) -> None:
    """Check a text as a URL, a path and an address."""
    text = data.decode("utf-8", "surrogateescape")
    scheme = scheme_of(text)
    assert scheme == scheme.lower()
    check_address(text)
    check_url(text)
    check_path(text)
    path = path_of(text)
    assert path.startswith("/")
    assert path_of(path) == path or is_url(path)
    assert {"", ".", ".."}.isdisjoint(path[1:].split("/")) or path == "/" or ".." in text


def check_address(text: str) -> None:
    """Check that an address is that of its own text."""
    try:
        address = Address.parse(text)
        server = parse_server(text)
    except AddressError as error:
        assert is_safe(error.reason)
        return
    assert server.address == address
    assert 0 < address.port < 65_536
    assert address.host
    assert not set(address.host) & set(" \t\r\n")
    is_loopback(address.host)
    check_server(address)
    assert Address.parse(str(address)) == address


def check_url(text: str) -> None:
    """Check a URL, and that both parsers of it agree."""
    try:
        server, path = parse_url(text)
    except UsageError as error:
        assert is_safe(str(error))
        return
    assert is_url(text)
    assert text.endswith(path)
    assert server.tls == (scheme_of(text) == "natproxys://")
    assert parse_path(text) == (server, path)
    assert parse_url(text, True)[0].tls
    scheme = scheme_of(text)
    assert parse_url(f"{scheme}{server.address}/{path}") == (server, path)


def check_path(text: str) -> None:
    """Check a path, and the options of the file system for it."""
    try:
        server, path = parse_path(text)
    except UsageError as error:
        assert is_safe(str(error))
    else:
        assert (server is None) == (not scheme_of(text))
        assert server is not None or path == text
    try:
        options = options_of(text)
    except ValueError as error:
        assert is_safe(str(error))
    else:
        assert bool(options) <= is_url(text)
