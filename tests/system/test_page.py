"""The page, in a real Chromium: what it shows, and that it needs nothing but its daemon."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import page_daemon
from tests.support.loopback import free_port
from tests.support.paths import ROOT
from tests.support.twistd import TWISTD, await_port, environment

try:
    from playwright import sync_api as playwright
except ImportError:
    playwright = None  # type: ignore[assignment]

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    playwright is None or CHROMIUM is None,
    reason="needs apt-get install chromium, and pip install natproxy[test] for playwright",
)
expect: Any = getattr(playwright, "expect", None)

HOST = "127.0.0.1"
BIG = 64 << 20
HOSTILE = "<script>alert(1)<%script>"
INVISIBLE = b"\xff \xe2\x80\xae gpj.\x1b[31m"
"""Not UTF-8, a mark that reverses the direction of text, and an escape sequence."""


class Daemon:
    """A proxy with its page, in a process of its own; see `tests.support.page_daemon`.

    :ivar proxy: its port; ``None`` for a file server.
    :ivar url: of the page.
    """

    def __init__(self, files: Path, proxy: str = "0", web: str = "0", entries: int = 0) -> None:
        command = [sys.executable, "-m", "tests.support.page_daemon"]
        self.process = subprocess.Popen(
            [*command, str(files), proxy, web, str(entries)],
            cwd=ROOT,
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.proxy = None if proxy == "-" else self._port("proxy")
        self.web = self._port("page")
        self.url = f"http://{HOST}:{self.web}/"

    def _port(self, name: str) -> int:
        assert self.process.stdout is not None
        word, port = self.process.stdout.readline().split()
        assert word == name
        return int(port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def client(self, command: bytes, address: str = "127.0.0.2") -> Any:
        """Return a client of the proxy; see `client_of`."""
        assert self.proxy is not None
        return client_of(self.proxy, command, address)


@contextmanager
def client_of(proxy: int, command: bytes, address: str) -> Iterator[socket.socket]:
    """Send a command and leave the reply unread: a big one stays in the table."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.bind((address, 0))
    client.connect((HOST, proxy))
    client.sendall(command + b"\n")
    try:
        yield client
    finally:
        client.close()


@contextmanager
def running(*arguments: Any, **options: Any) -> Iterator[Daemon]:
    daemon = Daemon(*arguments, **options)
    try:
        yield daemon
    finally:
        daemon.kill()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    for name in (b"big.iso", HOSTILE.encode(), INVISIBLE, b"n" * 200):
        with open(bytes(directory) + b"/" + name, "wb") as file:
            file.truncate(BIG)
    return directory


@pytest.fixture(scope="module")
def daemon(files: Path) -> Iterator[Daemon]:
    with running(files) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Only a failing test, or a busy machine, needs them.
    expect.set_options(timeout=20_000)
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages; at the end, none has written to its console or left its daemon."""
    contexts = []
    complaints: list[str] = []

    def opened(url: str, failing: str = "none", **options: Any) -> Any:
        """:param failing: requests that fail, which Chromium writes to the console."""
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        host = re.match(r"http://[^/]+/", url)[0]

        def console(message: Any) -> None:
            if not (failing in message.text and message.text.startswith("Failed to load resource")):
                complaints.append(message.text)

        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: request.url.startswith(host) or complaints.append(request.url),
        )
        page.goto(url)
        expect(page.locator("#state")).to_have_text("Live")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def rows_of(page: Any) -> Any:
    """Return the rows of commands that have not ended."""
    return page.locator("#rows").get_by_role("row").and_(page.locator(":not(.ended)"))


def test_rows_appear_and_go_without_reloading(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url)
    expect(rows_of(page)).to_have_count(0)
    with daemon.client(b"DOWNLOAD big.iso") as client:
        row = rows_of(page)
        expect(row).to_have_count(1)
        address = f"127.0.0.2:{client.getsockname()[1]}"
        expect(row.locator("td.client")).to_have_text(address)
        expect(row.locator("td.what")).to_have_text("DOWNLOAD big.iso")
        expect(row.locator("td.phase")).to_have_text("relaying")
        expect(row.locator("td.bytes")).to_contain_text("of 67.1 MB")
        expect(page.locator("#entries-now")).to_have_text("1")
        expect(page.locator("#ports-of")).to_have_text("of 28,232")
    expect(page.locator("#rows tr")).to_have_count(0)
    expect(page.locator("#table-note")).to_have_text("No command is in flight.")
    expect(page.locator("#errors li").first).to_contain_text("client-gone")
    expect(page.locator("#clients tr").first).to_contain_text("127.0.0.2")
    over = "Over a limit: 2 delayed now, 10.0.0.9 (client.commands)"
    expect(page.locator("#limits")).to_have_text(over)
    upstreams = "upstreams: 1 up, 1 down (files-b: connection refused), queue 0"
    expect(page.locator("#details")).to_contain_text(upstreams)
    page.get_by_role("button", name="Bytes").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Bytes")


def test_identities_have_a_column_while_there_are_any(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url)
    head = page.locator("th.identity")
    authenticated = b"AUTH %b\nDOWNLOAD big.iso" % page_daemon.TOKEN.encode()
    with daemon.client(b"DOWNLOAD big.iso", "127.0.0.3"):
        expect(rows_of(page).filter(has_text="127.0.0.3")).to_have_count(1)
        expect(head).to_be_hidden()
        with daemon.client(authenticated, "127.0.0.4"):
            row = rows_of(page).filter(has_text="127.0.0.4")
            expect(row.locator("td.identity")).to_have_text(page_daemon.ALICE)
            expect(head).to_be_visible()
            other = rows_of(page).filter(has_text="127.0.0.3")
            expect(other.locator("td.identity")).to_have_text("")
            # Of a row that was read, as of one that was streamed.
            page.reload()
            expect(row.locator("td.identity")).to_have_text(page_daemon.ALICE)
            for width in (1280, 320):
                page.set_viewport_size({"width": width, "height": 800})
                expect(row.locator("td.identity")).to_be_visible()
                page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
            assert page_daemon.TOKEN not in page.content()
            page.set_viewport_size({"width": 1280, "height": 900})
        expect(row).to_have_count(0)
        expect(head).to_be_hidden()


def test_filter_is_the_daemons_and_its_errors_point_at_the_word(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    with daemon.client(b"GET big.iso", "127.0.0.3"), daemon.client(b"GET big.iso", "127.0.0.4"):
        page = open_page(daemon.url, failing="400 (Bad Request)")
        expect(rows_of(page)).to_have_count(2)
        box = page.get_by_label("Filter", exact=True)
        box.fill("client 127.0.0.3")
        page.get_by_role("button", name="Apply").click()
        expect(rows_of(page)).to_have_count(1)
        expect(rows_of(page).locator("td.client")).to_contain_text("127.0.0.3:")
        box.fill("client 127.0.0.3 and colour red")
        box.press("Enter")
        expect(page.locator("#filter-problem mark")).to_have_text("colour")
        expect(box).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#state")).to_have_text("Live")
        box.fill("verb GET and client 127.0.0.4")
        box.press("Enter")
        expect(rows_of(page).locator("td.client")).to_contain_text("127.0.0.4:")
        expect(page.locator("#filter-problem")).to_be_empty()
        # The filter is in the address of the page, and applies after a reload.
        page.reload()
        expect(rows_of(page)).to_have_count(1)
        expect(box).to_have_value("verb GET and client 127.0.0.4")
        page.get_by_role("button", name="Clear").click()
        expect(rows_of(page)).to_have_count(2)


def test_whois_finds_the_client_or_states_why_not(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url, failing="400 (Bad Request)")
    result = page.locator("#whois-result")
    with daemon.client(b"GET big.iso", "127.0.0.5") as client:
        row = rows_of(page)
        expect(row).to_have_count(1)
        port = row.locator("td.port").inner_text()
        page.get_by_label("Port", exact=True).fill(port)
        page.get_by_role("button", name="Look up").click()
        expect(result).to_contain_text(f"Found: port {port} was held by one command now.")
        expect(result).to_contain_text(f"127.0.0.5:{client.getsockname()[1]}")
        expect(result).to_contain_text("GET big.iso")
        page.get_by_label("Port", exact=True).fill("1")
        page.keyboard.press("Enter")
        expect(result).to_contain_text("Nobody: no command held port 1 now.")
        page.get_by_label("Time", exact=True).fill("2020-01-01 12:00")
        page.keyboard.press("Enter")
        expect(result).to_contain_text("Unknown: the record is not complete at 2020-01-01 12:00.")
        expect(result).to_contain_text("Gap from the beginning until")
        page.get_by_label("Time", exact=True).fill("2999-01-01 12:00")
        page.keyboard.press("Enter")
        expect(result).to_contain_text("The time is in the future.")
        page.get_by_label("Time", exact=True).fill("soon")
        page.keyboard.press("Enter")
        expect(result).to_contain_text("Enter a time such as 14:03")
        page.get_by_label("Time", exact=True).fill("")
        page.get_by_label("Port", exact=True).fill("many")
        page.keyboard.press("Enter")
        expect(result).to_contain_text("Enter a port")


def test_hostile_names_are_text(daemon: Daemon, open_page: Callable[..., Any]) -> None:
    page = open_page(daemon.url)
    encoded = "".join(f"%{byte:02X}" for byte in INVISIBLE).encode()
    with (
        daemon.client(b"DOWNLOAD " + HOSTILE.encode()),
        daemon.client(b"GET " + encoded),
        daemon.client(b"GET " + b"n" * 200),
    ):
        names = rows_of(page).locator(".name")
        expect(names).to_have_count(3)
        # Their order is that in which the proxy read the commands.
        expect(names.filter(has_text="script")).to_have_text(HOSTILE)
        expect(names.filter(has_text="gpj")).to_have_text("\ufffd \\u202e gpj.\\u001b[31m")
        expect(page.locator("main script, main img")).to_have_count(0)
    # Those of clients that are gone.
    expect(page.locator("#errors")).to_contain_text(HOSTILE)


@contextmanager
def twistd(place: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon as its users do, until it is killed."""
    process = subprocess.Popen(
        [*TWISTD, "-n", "--pidfile=", *arguments],
        cwd=place,
        env=environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_page_left_open_over_a_restart_begins_anew(
    files: Path, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    upstream, proxy, web = free_port(), free_port(), free_port()
    local = f"interface={HOST}"
    server = ("fileserver", "--files", str(files), "--listen", f"tcp:{upstream}:{local}")
    front = ("natproxy", "--upstream", f"tcp:{HOST}:{upstream}", "--listen", f"tcp:{proxy}:{local}")
    front += ("--web", f"tcp:{web}:{local}", "--journal", str(tmp_path / "journal"))
    front += ("--control", "none")
    with twistd(tmp_path, *server, "--control", "none"):
        await_port(upstream)
        with twistd(tmp_path, *front) as first:
            await_port(web)
            page = open_page(f"http://{HOST}:{web}/", failing="net::ERR_")
            with client_of(proxy, b"GET big.iso", "127.0.0.6") as client:
                expect(rows_of(page)).to_have_count(1)
                address = f"127.0.0.6:{client.getsockname()[1]}"
                port = rows_of(page).locator("td.port").inner_text()
                # More than the journal's interval between two writes.
                page.wait_for_timeout(600)
                now = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
                first.kill()
        expect(page.locator("#state")).to_have_text("The daemon does not reply")
        expect(page.locator("#banner")).to_contain_text("The daemon has not replied since")
        expect(page.locator("#banner")).to_contain_text("Away for")
        # What it showed last can still be read.
        expect(page.locator("#rows tr")).to_have_count(1)
        with twistd(tmp_path, *front):
            expect(page.locator("#state")).to_have_text("Live")
            expect(page.locator("#banner")).to_be_empty()
            expect(page.locator("#notices")).to_contain_text("The daemon was restarted")
            expect(page.locator("#rows tr")).to_have_count(0)
            with client_of(proxy, b"GET big.iso", "127.0.0.7"):
                expect(rows_of(page)).to_have_count(1)
            # The journal has the beginning of the command that the kill ended.
            page.get_by_label("Port", exact=True).fill(port)
            page.get_by_label("Time", exact=True).fill(now)
            page.keyboard.press("Enter")
            result = page.locator("#whois-result")
            # Found if the second ended before the kill, else it may have been this client.
            expect(result.locator(".verdict")).to_contain_text(re.compile("^(Found|Unknown)"))
            expect(result.locator(".card")).to_contain_text(address)


def test_table_of_ten_thousand_entries_is_usable(
    files: Path, open_page: Callable[..., Any]
) -> None:
    with running(files, entries=10_000) as crowded:
        page = open_page(crowded.url)
        expect(rows_of(page)).to_have_count(200)
        expect(page.locator("#table-note")).to_have_text(
            "The oldest 200; 9,800 more are not shown: use the filter."
        )
        page.get_by_label("Filter", exact=True).fill("name 'held/9999.bin'")
        page.keyboard.press("Enter")
        expect(rows_of(page)).to_have_count(1)
        expect(rows_of(page).locator("td.client")).to_contain_text("10.1.39.250:")
        page.close()


def test_page_in_the_background_sends_no_request(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    notify = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true" + notify)
    expect(page.locator("#state")).to_have_text("Paused in the background")
    page.wait_for_load_state("networkidle")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    with daemon.client(b"GET big.iso"):
        page.wait_for_timeout(1500)
        assert requests == []
        page.evaluate(hide % "false" + notify)
        expect(page.locator("#state")).to_have_text("Live")
        expect(rows_of(page)).to_have_count(1)
        assert requests != []


def test_lost_events_are_shown(daemon: Daemon, open_page: Callable[..., Any]) -> None:
    page = open_page(daemon.url)
    boot = page.evaluate("fetch('/v1/status').then((reply) => reply.json())")["boot"]
    event = {"event": "lost", "worker": 0, "boot": boot, "from": 1, "to": 1200}

    def lose(route: Any) -> None:
        body = f"data: {json.dumps(event)}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/events?*", lose)
    page.reload()
    expect(page.locator("#notices")).to_contain_text("1,200 events were lost (1 to 1200)")


def test_colours_follow_the_system_and_the_switch_which_is_kept(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url, color_scheme="dark")
    body = page.locator("body")
    expect(body).to_have_css("background-color", "rgb(16, 21, 20)")
    page.emulate_media(color_scheme="light")
    expect(body).to_have_css("background-color", "rgb(244, 245, 244)")
    page.get_by_label("Dark").check()
    expect(body).to_have_css("background-color", "rgb(16, 21, 20)")
    page.reload()
    expect(body).to_have_css("background-color", "rgb(16, 21, 20)")
    expect(page.get_by_label("Dark")).to_be_checked()
    page.get_by_label("Auto").check()
    expect(body).to_have_css("background-color", "rgb(244, 245, 244)")


def test_narrow_page_needs_no_horizontal_scrolling(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url, viewport={"width": 400, "height": 800})
    with daemon.client(b"GET " + b"n" * 200) as client:
        expect(rows_of(page)).to_have_count(1)
        port = rows_of(page).locator("td.port")
        expect(rows_of(page).locator("td.client")).to_contain_text(str(client.getsockname()[1]))
        page.get_by_label("Port", exact=True).fill(port.inner_text())
        page.keyboard.press("Enter")
        expect(page.locator("#whois-result")).to_contain_text("Found")
        for width in (400, 320):
            page.set_viewport_size({"width": width, "height": 800})
            expect(port).to_be_visible()
            expect(page.locator(".plot canvas").first).to_be_visible()
            expect(page.locator(".uplot").first).to_have_css("width", f"{width - 58}px")
            page.wait_for_function(f"document.documentElement.scrollWidth == {width}")


def test_everything_is_reached_by_keyboard_and_the_focus_is_visible(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url)
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        reached.append(
            focused.evaluate("e => e.id || e.name || e.textContent.trim() || e.className")
        )
        outline = (
            "e => getComputedStyle(e.name === 'theme' ? e.nextElementSibling : e).outlineStyle"
        )
        assert focused.evaluate(outline) != "none", reached[-1]
    assert reached == [
        "Skip to the table",
        "theme",
        "filter",
        "Apply",
        "Clear",
        "table",
        "errors",
        "whois-port",
        "whois-time",
        "whois-upstream",
        "Look up",
        "Commands",
        "Bytes",
        "Errors",
        "status",
        "metrics",
    ]
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("verb LIST")
    page.keyboard.press("Enter")
    expect(page.locator("#table-note")).to_have_text("No command in flight matches the filter.")


def test_file_server_has_a_status_page(files: Path, open_page: Callable[..., Any]) -> None:
    with running(files, "-") as server:
        page = open_page(server.url, viewport={"width": 400, "height": 800})
        expect(page.locator("#name")).to_contain_text("files-")
        expect(page.locator("#facts")).to_contain_text("boot")
        expect(page.locator("#facts dt", has_text="GET completed")).to_have_text("GET completed")
        expect(page.locator("#facts dt", has_text="ports free")).to_have_text("ports free")
        limited = page.locator("#facts dt", has_text="limits clients").locator("+ dd")
        expect(limited).to_contain_text("10.0.0.9 7 refused client.commands 5 s ago, c 7 refused")
        page.wait_for_function("document.documentElement.scrollWidth == 400")
        page.close()


def test_times_and_ports_are_read_as_people_write_them(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url, timezone_id="America/New_York")
    script = """async ([base, texts]) => {
        const { parseMoment } = await import(base + "whois.js");
        const now = new Date("2026-11-26T19:30:00.500Z");
        return texts.map((text) => {
            try { return Object.values(parseMoment(text, now) ?? {}).join(" "); }
            catch (error) { return error.message.split(" ")[0]; }
        });
    }"""
    cases = {
        "": "",
        "14:03": "2026-11-26T19:03:00.000000Z 2026-11-26T19:04:00.000000Z",
        "14:03:07": "2026-11-26T19:03:07.000000Z 2026-11-26T19:03:08.000000Z",
        "14:03:07.25": "2026-11-26T19:03:07.250000Z 2026-11-26T19:03:07.260000Z",
        "2026-07-01 14:03": "2026-07-01T18:03:00.000000Z 2026-07-01T18:04:00.000000Z",
        "2026-11-26T14:03:59.999999Z": "2026-11-26T14:03:59.999999Z 2026-11-26T14:04:00.000000Z",
        "2026-11-26T14:03:07+05:30": "2026-11-26T08:33:07.000000Z 2026-11-26T08:33:08.000000Z",
        "-10min": "2026-11-26T19:20:00.500000Z 2026-11-26T19:20:01.500000Z",
        "25:00": "There",
        "2026-13-01 10:00": "There",
        "2026-02-30 10:00": "There",
        "soon": "Enter",
    }
    base = page.locator("script[type=module]").get_attribute("src").replace("page.js", "")
    read = page.evaluate(script, [base, list(cases)])
    assert dict(zip(cases, read, strict=True)) == cases
    script = """async ([base, texts]) => {
        const { parsePort } = await import(base + "whois.js");
        return texts.map((text) => {
            try { const { port, nat } = parsePort(text); return `${nat} ${port}`; }
            catch (error) { return "refused"; }
        });
    }"""
    cases = {
        "40001": "null 40001",
        "10.0.0.1:40001": "10.0.0.1 40001",
        "[2001:db8::1]:40001": "2001:db8::1 40001",
        "unix#65536": "unix 65536",
        "#65536": "null 65536",
        "": "refused",
        "x": "refused",
    }
    assert dict(zip(cases, page.evaluate(script, [base, list(cases)]), strict=True)) == cases


def test_numbers_and_names_are_written_for_people(
    daemon: Daemon, open_page: Callable[..., Any]
) -> None:
    page = open_page(daemon.url)
    script = """async ([base, name, values]) => {
        const module = await import(base + "format.js");
        return values.map((value) => module[name](value));
    }"""
    base = page.locator("script[type=module]").get_attribute("src").replace("page.js", "")
    for name, cases in {
        "formatBytes": {0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_960: "100 kB", 5e9: "5.0 GB"},
        "formatDuration": {
            3e-6: "3 µs",
            0.0012: "1.2 ms",
            0.25: "250 ms",
            4.06: "4.1 s",
            75: "1m15s",
        },
        "formatAge": {59.9: "59 s", 83: "1m23s", 3720: "1h02m", 190_000: "2d04h"},
        "formatRate": {0: "0", 0.25: "0.25", 3.21: "3.2", 1204: "1,204"},
        "shownName": {
            "a%20b": "a b",
            "%FF": "\ufffd",
            "%C3%BC": "ü",
            "100%": "100%",
            "%1B": "\\u001b",
        },
    }.items():
        written = page.evaluate(script, [base, name, list(cases)])
        assert dict(zip(cases, written, strict=True)) == cases, name
