"""The line of a command: verb, name and arguments, and the lines that a client formats."""

from __future__ import annotations

from fuzz.oracles import is_safe
from natproxy.protocol import (
    AUTH,
    MAX_LINE,
    MAX_NAMES,
    VERBS,
    Arguments,
    Command,
    Naming,
    Refusal,
    WireError,
    decode_name,
    encode_name,
    format_command,
    format_request,
    is_loop_probe,
    listable,
    name_of,
    names_of,
    parse_arguments,
    parse_command,
    parse_token,
    printable,
)

WORDS = [
    word.decode()
    for verb in VERBS.values()
    for word in (verb.word, *(b"%b=" % k for k in verb.keys))
]


def check(data: bytes) -> None:
    """Check the line before the first line feed; the name after it is one to format."""
    line, _, name = data.partition(b"\n")
    command = parse_command(line)
    if command is None:
        assert not line.split()
    else:
        check_command(command, line)
    check_name(name)


def check_command(command: Command, line: bytes) -> None:
    """Check what is parsed of a command."""
    # The next peer parses the same of the line that is sent on.
    assert parse_command(command.line) == command
    assert command.verb == command.verb.upper()
    assert len(command.line) <= len(line)
    shown = command.shown
    if AUTH in command.verb and command.line.strip().upper() != AUTH:
        assert shown.verb == AUTH
        assert command.secret
        assert shown.line == b"AUTH [redacted]"
    text = printable(shown.line)
    assert is_safe(text)
    assert len(text) <= 1024
    assert b"\n" not in command.error_line("a\nb" + text, 400)[:-1]
    is_loop_probe(command)
    names = names_of(command)
    assert len(names) <= max(1, len(command.line))
    assert len(name_of(command)) <= max(len(command.line), len(shown.name))
    if command.verb == AUTH:
        token = parse_token(command)
        assert token is None or (token.isascii() and token in command.line)
    elif command.coded:
        check_arguments(command)


def check_arguments(command: Command) -> None:
    """Check that arguments are those of the line that is formatted of them."""
    try:
        arguments = parse_arguments(command)
    except Refusal as refusal:
        assert refusal.code == 400
        assert refusal.message.isascii()
        assert is_safe(refusal.message)
        return
    assert len(arguments.names) <= MAX_NAMES
    try:
        line = format_request(command.verb, arguments)
    except WireError:
        # Escapes lengthen a name that was not escaped.
        assert len(command.line) > MAX_LINE // 3
        return
    again = parse_command(line[:-1])
    assert again is not None
    assert parse_arguments(again) == arguments


def check_name(name: bytes) -> None:
    """Check that each verb transports a name, or that it cannot be formatted."""
    assert b" " not in encode_name(name)
    if name:
        assert decode_name(encode_name(name)) == name
    for word, verb in VERBS.items():
        if verb.naming in (Naming.NONE, Naming.SECRET):
            continue
        try:
            if verb.version == 1:
                line = format_command(word, name)
            else:
                line = format_request(word, Arguments(name=name, names=(name,)))
        except WireError:
            continue
        assert len(line) <= MAX_LINE + 1
        command = parse_command(line[:-1])
        assert command is not None
        assert command.verb == word
        expected = b"" if name == b"." and verb.version > 1 else name
        found = names_of(command)
        if verb.version == 1:
            assert found == [name]
            listable(name)
        elif verb.naming is Naming.SEVERAL:
            assert parse_arguments(command).names == (expected,)
        else:
            assert parse_arguments(command).name == expected
