"""The blocking and the Deferred API have the same methods with the same parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

import natproxy.client
import natproxy.client.twisted
from tests.support.paths import ROOT

BLOCKING = natproxy.client.Session
DEFERRED = natproxy.client.twisted.Session

# Each difference has its reason in docs/python.md, "Differences".
BLOCKING_ONLY = {"connection", "interrupt", "pipeline", "get_and_stat"}
PROPERTIES = {"version", "features"}
DEFERRED_PARAMETERS = {"get": {"consumer"}, "get_v1": {"consumer"}}


def public_names(session: type) -> set[str]:
    return {name for name in dir(session) if not name.startswith("_")}


def parameters_of(function: object) -> dict[str, tuple[object, object]]:
    """Return the kind and the default of each parameter, by its name."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return {name: (each.kind, each.default) for name, each in signature.parameters.items()}


class ParityTests(SynchronousTestCase):
    def methods(self) -> Iterator[str]:
        yield from sorted((public_names(BLOCKING) & public_names(DEFERRED)) - PROPERTIES)

    def test_both_have_the_same_methods(self) -> None:
        self.assertEqual(public_names(BLOCKING) - BLOCKING_ONLY, public_names(DEFERRED))

    def test_methods_have_the_same_parameters_in_the_same_order(self) -> None:
        for name in self.methods():
            deferred = parameters_of(getattr(DEFERRED, name))
            for added in DEFERRED_PARAMETERS.get(name, ()):
                del deferred[added]
            blocking = parameters_of(getattr(BLOCKING, name))
            self.assertEqual([*blocking.items()], [*deferred.items()], name)

    def test_properties_are_methods_without_parameters(self) -> None:
        for name in PROPERTIES:
            self.assertIsInstance(getattr(BLOCKING, name), property)
            self.assertEqual([*parameters_of(getattr(DEFERRED, name))], ["self"])

    def test_connect_has_the_same_parameters_besides_the_reactor_and_retries(self) -> None:
        deferred = parameters_of(natproxy.client.twisted.connect)
        for name in ("reactor", "retry_policy"):
            del deferred[name]
        blocking = parameters_of(natproxy.client.connect)
        self.assertEqual([*blocking.items()], [*deferred.items()])

    def test_documentation_has_each_difference(self) -> None:
        page = (ROOT / "docs/python.md").read_text()
        differences = page.partition("**Differences.**")[2].partition("\n**")[0]
        for name in {
            "retry_policy=",
            "consumer",
            *BLOCKING_ONLY,
            *PROPERTIES,
            *DEFERRED_PARAMETERS,
        }:
            self.assertIn(f"`{name}`", differences)
