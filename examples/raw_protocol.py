"""Speak the protocol with nothing but a socket: list the files and download the first one.

Usage: python examples/raw_protocol.py [HOST [PORT]]
"""

from __future__ import annotations

import socket
import sys

host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 9000

with socket.create_connection((host, port)) as connection, connection.makefile("rwb") as stream:
    stream.write(b"LIST\n")
    stream.flush()
    if (header := stream.readline()) != b"OK\n":
        sys.exit(f"the server replied {header.decode(errors='replace').strip()}")
    names = []
    while (line := stream.readline()) not in (b"END\n", b""):
        names.append(line.removesuffix(b"\n"))
    print("files:", *[name.decode(errors="replace") for name in names], sep="\n  ")

    if names:
        stream.write(b"DOWNLOAD " + names[0] + b"\n")
        stream.flush()
        word, _, size = stream.readline().strip().partition(b" ")
        if word != b"OK":
            sys.exit(f"the server replied {word.decode()} {size.decode(errors='replace')}")
        body = stream.read(int(size))
        print(f"{names[0].decode(errors='replace')} has {len(body)} bytes")
