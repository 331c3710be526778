"""The files of the page: their types, their caching, and that nothing else is served."""

from __future__ import annotations

import re

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.web.guard import Directory
from natproxy.web.site import WebSite
from natproxy.web.static import StaticFiles
from tests.support.http import respond
from tests.support.paths import ROOT

DIRECTORY = ROOT / "natproxy/web/static"


class StaticFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = StaticFiles()
        root = Directory()
        root.putChild(b"static", self.files)
        root.putChild(b"", self.files.page("page.html"))
        self.site = WebSite(root, Clock())
        self.base = f"/static/{self.files.version}"

    def test_files_are_served_with_their_types_and_kept_by_the_browser(self) -> None:
        for name, kind in (
            ("page.js", "text/javascript; charset=utf-8"),
            ("page.css", "text/css; charset=utf-8"),
            ("icon.svg", "image/svg+xml"),
            ("uplot.LICENSE.txt", "text/plain; charset=utf-8"),
        ):
            response = respond(self.site, f"{self.base}/{name}")
            self.assertEqual(response.status, 200)
            self.assertEqual(response.body, (DIRECTORY / name).read_bytes())
            self.assertEqual(response.headers["content-type"], kind)
            self.assertIn("immutable", response.headers["cache-control"])

    def test_page_is_checked_each_time_and_sent_if_it_has_changed(self) -> None:
        first = respond(self.site)
        self.assertEqual(first.headers["cache-control"], "no-cache")
        etag = first.headers["etag"]
        again = respond(self.site, If_None_Match=etag)
        self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(again.headers["cache-control"], "no-cache")
        self.assertIn("content-security-policy", again.headers)
        self.assertEqual(respond(self.site, If_None_Match='"other"').status, 200)

    def test_head_has_the_etag_and_no_body(self) -> None:
        response = respond(self.site, f"{self.base}/page.js", "HEAD")
        self.assertEqual((response.status, response.body), (200, b""))
        self.assertIn("etag", response.headers)

    def test_nothing_else_is_served(self) -> None:
        for path in (
            "/static",
            "/static/",
            self.base,
            f"{self.base}/",
            f"{self.base}/page.html",
            f"{self.base}/../site.py",
            f"{self.base}/%2e%2e/site.py",
            f"{self.base}/..%2fsite.py",
            f"{self.base}/page.js/",
            f"{self.base}/page.js%00",
            f"{self.base}//etc/passwd",
        ):
            self.assertEqual(respond(self.site, path).status, 404, path)

    def test_file_of_another_version_is_an_error_that_names_the_remedy(self) -> None:
        response = respond(self.site, "/static/0123456789abcdef/page.js")
        self.assertEqual(response.status, 404)
        self.assertIn(b"load the page again", response.body)

    def test_each_file_that_a_page_names_is_served(self) -> None:
        for page in ("page.html", "status.html"):
            body = (DIRECTORY / page).read_text()
            named = re.findall(r'(?:src|href)="/static/@version@/([^"]+)"', body)
            self.assertGreater(len(named), 3)
            for name in named:
                self.assertEqual(respond(self.site, f"{self.base}/{name}").status, 200, name)

    def test_each_module_that_a_script_imports_is_served(self) -> None:
        for script in DIRECTORY.glob("*.js"):
            for name in re.findall(r'from "\./([^"]+)"', script.read_text()):
                self.assertTrue((DIRECTORY / name).is_file(), f"{script.name} imports {name}")

    def test_pages_need_nothing_that_the_policy_forbids(self) -> None:
        for page in DIRECTORY.glob("*.html"):
            body = page.read_text()
            self.assertNotRegex(body, r"<style|style=|\son\w+=|javascript:|https?://")
            self.assertNotRegex(body, r"<script(?![^>]* src=)")

    def test_own_scripts_create_no_markup_from_text_and_name_no_other_site(self) -> None:
        for script in DIRECTORY.glob("*.js"):
            if script.name != "uplot.min.js":
                source = script.read_text()
                self.assertNotRegex(
                    source, r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?:"
                )

    def test_vendored_library_has_its_licence(self) -> None:
        self.assertIn("MIT License", (DIRECTORY / "uplot.LICENSE.txt").read_text())
