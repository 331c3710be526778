"""pyftpdlib's asynchronous server, with its own ``sendfile``, for anonymous readers.

Run as ``ftp PORT DIRECTORY``.
"""

from __future__ import annotations

import logging
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer


def main(port: int, directory: str) -> None:
    """Serve for ever."""
    logging.basicConfig(level=logging.ERROR)
    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(directory)
    FTPHandler.authorizer = authorizer
    server = FTPServer(("127.0.0.1", port), FTPHandler, backlog=4096)
    server.max_cons = 4096
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
