"""A server of S3 whose replies are written down: for faults that no real server has at will."""

from __future__ import annotations

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
MODIFIED = "Fri, 14 Jul 2017 02:40:00 GMT"
ETAG = '"0123456789abcdef"'


class Reply:
    """A reply.

    :ivar status: of HTTP.
    :ivar headers: besides those of every object.
    :ivar length: in the header; that of the body by default.
    :ivar hangs: whether the connection stays silent after the body until the server is closed.
    """

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        length: int | None = None,
        hangs: bool = False,
        **headers: str,
    ) -> None:
        self.status = status
        self.body = body
        self.length = len(body) if length is None else length
        self.hangs = hangs
        self.headers = {"ETag": ETAG, "Last-Modified": MODIFIED}
        self.headers.update({name.replace("_", "-"): value for name, value in headers.items()})


def failure(status: int, code: str, message: str = "") -> Reply:
    """Return an error as S3 replies."""
    return Reply(status, ERROR.format(code=code, message=message).encode())


class PlayedS3:
    """The server, in threads.

    :ivar replies: to the next requests; the last one stays.
    :ivar requests: method, path and headers of each request.
    """

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque([Reply()])
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.closing = threading.Event()
        played = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                played.requests.append((self.command, self.path, dict(self.headers)))
                reply = played.replies[0]
                if len(played.replies) > 1:
                    played.replies.popleft()
                self.send_response_only(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(reply.length))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(reply.body)
                if reply.hangs:
                    played.closing.wait()
                if reply.hangs or reply.length != len(reply.body):
                    self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def play(self, *replies: Reply) -> None:
        """Reply so from now on."""
        self.replies = deque(replies)

    def close(self) -> None:
        """Stop."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
