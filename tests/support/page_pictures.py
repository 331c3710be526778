"""A program that makes the pictures of the page in ``docs/``: a pair of daemons under load.

    python -m tests.support.page_pictures [SECONDS [DIRECTORY]]

SECONDS of load are shown by the charts. The clients connect with PROXY headers, so that they have
addresses of their own.
"""

from __future__ import annotations

import math
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.support.loopback import free_port
from tests.support.paths import ROOT
from tests.support.twistd import TWISTD, await_port, environment

HOST = "127.0.0.1"
WEB = 9080
NO_FILES = ("--control", "none", "--journal", "none")
CLIENTS = 32
SMALL = [f"reports/2026-{month:02}.csv" for month in range(1, 12)]
MEDIUM = [f"photos/{number:04}.jpg" for number in range(40)]
BIG = ["images/debian-12.iso", "backups/database.tar.zst", "images/rocky-9.iso", "videos/tour.mp4"]


class Client:
    """A client with an address of its own.

    :param number: from which its address is made.
    """

    def __init__(self, proxy: int, number: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.socket.connect((HOST, proxy))
        address = f"10.{20 + number % 3}.{number % 5}.{10 + 7 * number % 240}"
        port = 32768 + random.randrange(28000)
        self.socket.sendall(f"PROXY TCP4 {address} 10.20.0.1 {port} 9000\r\n".encode())

    def command(self, line: str) -> None:
        """Send a command."""
        self.socket.sendall(line.encode() + b"\n")

    def receive(self, size: int, until: float) -> int:
        """Receive up to this many bytes; return how many there are still."""
        while size > 0 and time.monotonic() < until:
            data = self.socket.recv(min(size, 1 << 16))
            if not data:
                break
            size -= len(data)
        return size


def short_commands(proxy: int, number: int, until: float) -> None:
    """Send short commands, at a rate that rises and falls."""
    client = Client(proxy, number)
    replies = client.socket.makefile("rb")
    while (now := time.monotonic()) < until:
        chance = random.random()
        name = random.choice(SMALL + MEDIUM)
        if chance < 0.01:
            name = f"reports/2025-{random.randrange(1, 13):02}.csv"
        client.command(f"{'HASH' if chance > 0.6 else 'STAT'} {name}")
        replies.readline()
        pace = (1.5 + math.sin(now / 17) + 0.4 * math.sin(now / 3.1)) * (1 + number % 7)
        time.sleep(random.expovariate(2.5 * pace))


def medium_downloads(proxy: int, number: int, until: float) -> None:
    """Download pictures, some of them not to their end."""
    while time.monotonic() < until:
        client = Client(proxy, number)
        client.command(f"DOWNLOAD {random.choice(MEDIUM)}")
        client.receive(random.choice([3_000_000] * 30 + [200_000]), until)
        client.socket.close()
        time.sleep(random.expovariate(1.2))


def big_download(proxy: int, number: int, until: float) -> None:
    """Download a big file at a steady rate."""
    client = Client(proxy, number)
    client.command(f"DOWNLOAD {BIG[number % len(BIG)]}")
    while time.monotonic() < until:
        if client.receive(150_000 * (1 + number % 4), until) > 0:
            break
        time.sleep(0.1)
    client.socket.close()


def load(proxy: int, seconds: float) -> None:
    """Send commands in threads."""
    until = time.monotonic() + seconds

    def begin(kind: Callable[[int, int, float], None], number: int, delay: float = 0.0) -> None:
        def work() -> None:
            time.sleep(delay)
            with suppress(OSError):
                kind(proxy, number, until)

        threading.Thread(target=work, daemon=True).start()

    for number in range(CLIENTS):
        begin(short_commands, number)
    for number in range(5):
        begin(medium_downloads, 40 + number)
    for number in range(9):
        begin(big_download, 50 + number, number * seconds / 16)


def make_files(directory: Path) -> None:
    """Create the files to serve."""
    sizes = dict.fromkeys(SMALL, 40000) | dict.fromkeys(MEDIUM, 3_000_000)
    sizes |= {name: 700_000_000 * (1 + place) for place, name in enumerate(BIG)}
    for name, size in sizes.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)


def whois(page: Page) -> None:
    """Look up the port of the first row."""
    page.get_by_label("Port", exact=True).fill(page.locator("#rows td.port").first.inner_text())
    page.keyboard.press("Enter")
    page.get_by_text("Found:").wait_for()
    page.locator("h1").click()


def take(url: str, directory: Path) -> None:
    """Take the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, scheme, width, height in (
            ("light", "light", 1360, 960),
            ("dark", "dark", 1360, 960),
            ("narrow", "light", 400, 1500),
        ):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            page = context.new_page()
            page.goto(url)
            page.locator("#rows tr").first.wait_for()
            if width > 1000:
                whois(page)
            page.wait_for_timeout(2500)
            path = directory / f"page-{name}.png"
            page.screenshot(path=path, full_page=width > 1000)
            # A palette makes the files a third as large.
            with Image.open(path) as picture:
                picture.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(
                    path, optimize=True
                )
            context.close()
        browser.close()


@contextmanager
def daemon(place: Path, *arguments: str) -> Iterator[None]:
    """Run a daemon; its log is discarded."""
    process = subprocess.Popen(
        [*TWISTD, "-n", "--pidfile=", *arguments],
        cwd=place,
        env=environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main(seconds: str = "150", directory: str = str(ROOT / "docs")) -> None:
    """Make the pictures."""
    upstream, proxy = free_port(), free_port()
    with tempfile.TemporaryDirectory() as made, ExitStack() as daemons:
        place = Path(made)
        files = place / "files"
        files.mkdir()
        make_files(files)
        local = f"interface={HOST}"
        server = ("fileserver", "--files", str(files), "--listen", f"tcp:{upstream}:{local}")
        daemons.enter_context(daemon(place, *server, "--control", "none"))
        await_port(upstream)
        options = ("--upstream", f"tcp:{HOST}:{upstream}", "--web", f"tcp:{WEB}:{local}")
        listen = f"haproxy:tcp:{proxy}:{local}"
        daemons.enter_context(
            daemon(
                place, "natproxy", "--name", "proxy-9000", "--listen", listen, *options, *NO_FILES
            )
        )
        await_port(proxy)
        load(proxy, float(seconds) + 30)
        time.sleep(float(seconds))
        take(f"http://{HOST}:{WEB}/", Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
