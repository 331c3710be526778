"""Imports run one way: down the list of packages, and in no circle of modules."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.paths import ROOT

LAYERS = (
    "kernel",
    "address",
    "counts",
    "extras",
    "toml_values",
    "settings",
    "toml",
    "metadata",
    "tls",
    "tokens",
    "pattern",
    "protocol",
    "records",
    "nat",
    "access",
    "relay",
    "storage",
    "server",
    "proxy",
    "fileserver",
    "journal",
    "metrics",
    "control",
    "web",
    "daemon",
    "client",
    "cli",
    "fs",
    "testing",
)
"""From the ground up; see ``docs/architecture.md``."""


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "natproxy").rglob("*.py")
    }


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the project's modules that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            base = node.module or ""
            found.update(
                name if (name := f"{base}.{alias.name}") in known else base for alias in node.names
            )
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found & known.keys()


def layer_of(module: str) -> str | None:
    """Return the package directly below ``natproxy``; `None` for the top module."""
    return module.split(".")[1] if "." in module else None


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of one circle, the first one repeated at the end; none if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        for following in sorted(graph[node]):
            if circle := visit(following):
                return circle
        path.pop()
        done.add(node)
        return []

    for node in sorted(graph):
        if circle := visit(node):
            return circle
    return []


@cache
def graph_of_imports() -> dict[str, set[str]]:
    """Return the project's modules with those that each imports."""
    known = modules()
    return {
        name: imports_of(path, known) - {name}
        for name, path in known.items()
        if name != "natproxy.__main__"
    }


class LayersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.graph = graph_of_imports()

    def test_every_package_has_a_layer(self) -> None:
        found = {layer for name in self.graph if (layer := layer_of(name)) is not None}
        self.assertEqual(found - set(LAYERS), set())

    def test_documented_packages_are_these_in_this_order(self) -> None:
        page = (ROOT / "docs/architecture.md").read_text()
        section = page.partition("\n## The packages\n")[2]
        table = section.partition("| --- | --- | --- |\n")[2].partition("\n\n")[0]
        documented = [row.split("`")[1] for row in table.splitlines()]
        paths = [
            f"natproxy/{layer}{'/' if (ROOT / 'natproxy' / layer).is_dir() else '.py'}"
            for layer in LAYERS
        ]
        self.assertEqual(documented, [path for path in paths if (ROOT / path).exists()])

    def test_no_import_leads_up(self) -> None:
        order = {layer: height for height, layer in enumerate(LAYERS)}
        upward = [
            f"{name} imports {imported}"
            for name, all_imported in self.graph.items()
            for imported in all_imported
            if (below := layer_of(name)) is not None
            and (above := layer_of(imported)) is not None
            and order[above] > order[below]
        ]
        self.assertEqual(upward, [])

    def test_no_circle_of_imports(self) -> None:
        self.assertEqual(circle_in(self.graph), [])

    def test_storage_and_relay_know_nothing_of_the_protocol(self) -> None:
        for name, imported in self.graph.items():
            if layer_of(name) in ("storage", "relay", "kernel"):
                known = {layer_of(module) for module in imported}
                self.assertNotIn("protocol", known, name)

    def test_client_does_not_import_the_daemons(self) -> None:
        daemons = {"server", "proxy", "fileserver", "daemon", "nat", "relay", "storage"}
        for name, imported in self.graph.items():
            if layer_of(name) in ("client", "fs"):
                self.assertEqual({layer_of(module) for module in imported} & daemons, set(), name)


class CircleTests(SynchronousTestCase):
    def test_circle_is_found(self) -> None:
        self.assertEqual(circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}), ["b", "c", "b"])
        self.assertEqual(circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}), [])


class TestModulesTests(SynchronousTestCase):
    """What several tests share is in `tests.support`."""

    def test_no_test_module_imports_another(self) -> None:
        found = [
            f"{path.relative_to(ROOT)} imports {imported}"
            for path in sorted((ROOT / "tests").rglob("*.py"))
            for imported in sorted(imports_from_tests(path.read_text()))
            if imported.split(".")[1:2] != ["support"]
        ]
        self.assertEqual(found, [])

    def test_import_of_a_test_module_is_found(self) -> None:
        source = (
            "import tests.unit.test_a\nfrom tests.unit import test_b\nfrom tests import support\n"
            "from tests import unit\ndef f():\n    from . import test_c\n"
        )
        expected = {"tests.unit.test_a", "tests.unit.test_b", "tests.support", "tests.unit"}
        self.assertEqual(imports_from_tests(source), {*expected, "tests.test_c"})


def imports_from_tests(source: str) -> set[str]:
    """Return what a module imports from `tests`, with the names that it imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "tests" if node.level else node.module
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] == "tests"}
