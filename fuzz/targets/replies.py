"""The framing of replies, as the client and the proxy parse them."""

from __future__ import annotations

from fuzz.oracles import is_safe
from fuzz.pieces import pieces_of
from natproxy.protocol import (
    END,
    MAX_ABILITIES,
    MAX_LINE,
    MAX_SIZE,
    VERBS,
    VIA,
    AbilitiesReader,
    ErrorKind,
    Framing,
    ListingNames,
    ReplyParser,
    WireError,
    error_line,
    kind_of,
    parse_error,
    parse_header,
    printable,
    relayed_abilities,
    retry_after,
)

FRAMINGS = tuple(Framing)

WORDS = ("OK", "ERR ", "END\n", "NATPROXY 2\n", "VIA ", "retry-after=", "name=", "unknown command")


def check(data: bytes) -> None:
    """Check that a reply does not depend on pieces; the second byte is the framing."""
    framing = FRAMINGS[data[1] % len(FRAMINGS)] if len(data) > 1 else Framing.NOTHING
    whole, pieces = pieces_of(data[:1] + data[2:])
    one = parsed(framing, [whole])
    many = parsed(framing, pieces)
    assert one == many, (one, many)
    if one is not None and framing is Framing.LISTING and b"\n" in whole:
        check_names(pieces)
    check_abilities(whole, pieces)
    check_error(whole)


def parsed(framing: Framing, pieces: list[bytes]) -> tuple[object, ...] | None:
    """Return what is parsed of a reply; ``None`` if it is malformed."""
    parser = ReplyParser(framing)
    body = b""
    try:
        for piece in pieces:
            body += parser.feed(piece)
    except WireError as error:
        assert is_safe(str(error))
        return None
    header = parser.header
    if header is None:
        assert len(b"".join(pieces)) <= MAX_LINE
        assert parser.missing
        assert not parser.complete
        return (None,)
    assert 0 <= header.size <= MAX_SIZE
    if header.framing is Framing.COUNTED:
        assert len(body) + parser.remaining == header.size
    if parser.complete:
        assert not parser.remaining
        if header.framing is Framing.LISTING:
            assert (b"\n" + body).endswith(b"\n" + END + b"\n")
            assert (b"\n" + body).count(b"\n" + END + b"\n") == 1
    else:
        assert parser.missing
        assert not parser.surplus
    whole = b"".join(pieces)
    line, _, rest = whole.partition(b"\n")
    assert rest == body + parser.surplus
    assert parse_header(line, framing) == header
    return header, body, parser.surplus, parser.complete


def check_names(pieces: list[bytes]) -> None:
    """Check the names of a listing."""
    reader = ListingNames()
    names = []
    try:
        for piece in pieces:
            names += list(reader.feed(piece))
    except WireError:
        return
    lines = b"".join(pieces).split(b"\n")[:-1]
    assert names == [line for line in lines if line not in (b"", END)]


def check_abilities(whole: bytes, pieces: list[bytes]) -> None:
    """Check that a proxy passes on known abilities only, and does not change its own lines."""
    reader = AbilitiesReader()
    try:
        found = next((found for piece in pieces if (found := reader.feed(piece)) is not None), None)
    except WireError:
        assert len(whole) > MAX_ABILITIES or whole.count(b"\n") > 256
        return
    if found is None:
        return
    assert found.endswith(END + b"\n")
    lines = found.removesuffix(END + b"\n")
    for line in lines.split(b"\n")[1:-1]:
        word, *arguments = line.split()
        assert word == VIA or set(arguments) <= set(VERBS[word].keys)
    # A second proxy adds its own line only.
    again = relayed_abilities(lines)
    assert again.startswith(lines) or b"VIA" in again
    assert again.count(b"\n") <= lines.count(b"\n") + 1


def check_error(whole: bytes) -> None:
    """Check the text of an error."""
    code, message = parse_error(whole)
    assert code is None or 100 <= code <= 599
    assert isinstance(kind_of(code, message), ErrorKind)
    seconds = retry_after(message)
    assert 0 <= seconds < 10**9
    if seconds:
        assert kind_of(429, message) is ErrorKind.LIMITED
    line = error_line(printable(message), code)
    header = parse_header(line[:-1], Framing.NOTHING)
    assert header.error is not None
    if code is not None:
        assert parse_error(header.error)[0] == code
