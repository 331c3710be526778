"""The OpenAPI document and the code say the same, in both directions."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from twisted.web.resource import Resource

from natproxy.control.actions import KillResource
from natproxy.control.json_resource import JSONResource
from natproxy.control.resources import IndexResource, resources_of
from natproxy.control.site import control_site
from natproxy.nat import Outcome
from natproxy.records.record import Record
from natproxy.records.whois import Gap
from tests.support.control_resources import ControlCase
from tests.support.recorded_upstreams import RecordedUpstreams

DOCUMENT = json.loads(files("natproxy.control").joinpath("openapi.json").read_text("utf-8"))

SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference names."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return SCHEMAS[name] if name else schema


def violations(value: Any, schema: dict[str, Any], place: str = "") -> list[str]:
    """Return how a value violates a schema, by the keywords that the document uses."""
    schema = resolved(schema)
    if "anyOf" in schema:
        each = [violations(value, option, place) for option in schema["anyOf"]]
        return [] if [] in each else each[0]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    python: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if kinds and not any(isinstance(value, python[kind]) for kind in kinds):
        return [f"{place}: {value!r} is none of {kinds}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{place}: {value!r}"]
    found: list[str] = []
    if isinstance(value, dict) and "properties" in schema:
        found += [f"{place}: {name} is missing" for name in schema["required"] if name not in value]
        for name, member in value.items():
            if name not in schema["properties"]:
                found.append(f"{place}: {name} is not documented")
            else:
                found += violations(member, schema["properties"][name], f"{place}.{name}")
    if isinstance(value, list) and "items" in schema:
        for member in value:
            found += violations(member, schema["items"], f"{place}[]")
    return found


class OpenAPITests(ControlCase):
    def setUp(self) -> None:
        super().setUp()
        self.observed.reconcile = dict
        self.observed.upstreams = RecordedUpstreams()
        context = self.make_context()
        self.site = control_site(context)
        resources = resources_of(context, actions=True)
        self.resources: dict[str, JSONResource] = {
            each.path: each for each in [*resources, IndexResource(context, resources)]
        }

    def test_paths_and_methods(self) -> None:
        documented = {
            path: {method.upper() for method in operations}
            for path, operations in DOCUMENT["paths"].items()
        }
        coded = {path: set(each.parameters) for path, each in self.resources.items()}
        self.assertEqual(documented, coded)

    def test_parameters_and_members(self) -> None:
        for path, operations in DOCUMENT["paths"].items():
            resource = self.resources[path]
            for method, operation in operations.items():
                names = [each["name"] for each in operation["parameters"]]
                self.assertEqual(names, list(resource.parameters[method.upper()]), path)
                body = operation.get("requestBody")
                if method == "post":
                    members: list[str] = []
                    if body is not None:
                        ((_, media),) = body["content"].items()
                        members = list(resolved(media["schema"])["properties"])
                    self.assertEqual(members, list(resource.members), path)

    def test_summaries(self) -> None:
        for path, resource in self.resources.items():
            summary = DOCUMENT["paths"][path].get("get", DOCUMENT["paths"][path].get("post"))
            self.assertTrue(resource.summary.startswith(summary["summary"]), path)

    def test_members_of_records(self) -> None:
        fields = [name for name in Record._fields if name not in ("event", "time", "uid", "pid")]
        self.assertEqual(list(SCHEMAS["Translation"]["properties"]), fields)
        self.assertEqual(set(SCHEMAS["Event"]["properties"]), set(Record._fields))
        self.assertEqual(list(SCHEMAS["Gap"]["properties"]), list(Gap(None, None, "").json()))

    def test_outcomes_are_documented(self) -> None:
        text = SCHEMAS["Translation"]["properties"]["outcome"]["description"]
        for outcome in Outcome:
            self.assertIn(outcome.value, text)

    def test_responses_have_the_documented_members(self) -> None:
        class Metrics(Resource):
            def render_GET(self, request: Any) -> bytes:
                request.setHeader("Content-Type", "text/plain")
                return b"commands_total 3\n"

        self.observed.metrics = Metrics()
        for _ in range(3):
            self.execute()
        self.register(port=7)
        self.ring.act("kill", 1.0, 0, 1, "all")
        cases: tuple[tuple[str, str, Any], ...] = (
            ("get", "/v1/", None),
            ("get", "/v1/table", None),
            ("get", "/v1/events?after=0:1:ffff", None),
            ("get", "/v1/whois?port=7", None),
            ("get", "/v1/whois?port=50001", None),
            ("get", "/v1/whois?port=7&since=2001-01-01", None),
            ("post", "/v1/whois", b'{"port":7}\n{"port":0}\n'),
            ("get", "/v1/history", None),
            ("get", "/v1/status", None),
            ("get", "/v1/reconcile", None),
            ("get", "/v1/upstreams", None),
            ("post", "/v1/upstreams", {"upstream": "files-a", "mode": "drain"}),
            ("post", "/v1/upstreams", {"upstream": "x", "mode": "drain"}),
            ("get", "/v1/openapi.json", None),
            ("get", "/healthz", None),
            ("get", "/readyz", None),
            ("get", "/metrics", None),
            ("get", "/metrics?x=1", None),
            ("get", "/v1/table?filter=clint", None),
            ("get", "/v1/table?limit=x", None),
            ("post", "/v1/kill", {}),
            ("post", "/v1/kill", {"serial": 1, "boot": "x"}),
            ("post", "/v1/kill", {"serial": 4, "dry_run": True}),
            ("post", "/v1/kill", {"serial": 4}),
            ("post", "/v1/drain", {}),
            ("post", "/v1/drain", {}),
            ("post", "/v1/reload", {}),
            ("post", "/v1/reload", {"dry_run": True}),
            ("post", "/v1/reload", {"dry_run": 1}),
        )
        seen: set[tuple[str, str]] = set()
        for method, target, body in cases:
            response = self.get(target) if method == "get" else self.post(target, body)
            path = target.partition("?")[0]
            seen.add((method, path))
            documented = DOCUMENT["paths"][path][method]["responses"]
            self.assertIn(str(response.status), documented, target)
            kind = response.headers["content-type"]
            self.assertIn(kind, documented[str(response.status)]["content"], target)
            schema = documented[str(response.status)]["content"][kind]["schema"]
            if kind == "application/x-ndjson":
                values = response.lines
                self.assertNotEqual(values, [])
            elif kind == "application/json":
                values = [response.json]
            else:
                values = [response.body.decode()]
            for value in values:
                self.assertEqual(violations(value, schema), [], target)
        everything = {(method, path) for path, each in DOCUMENT["paths"].items() for method in each}
        self.assertEqual(everything - seen, set())

    def test_errors_of_a_reload_have_the_documented_members(self) -> None:
        self.reloaded |= {"errors": ["a", "b"], "changed": []}
        response = self.post("/v1/reload", {})
        documented = DOCUMENT["paths"]["/v1/reload"]["post"]["responses"][str(response.status)]
        schema = documented["content"]["application/json"]["schema"]
        self.assertEqual(violations(response.json, schema), [])

    def test_every_documented_member_of_kill_is_read(self) -> None:
        self.assertEqual(set(SCHEMAS["Kill"]["properties"]), set(KillResource.members))


class ViolationsTests(ControlCase):
    def test_differences_are_found(self) -> None:
        schema = {"$ref": "#/components/schemas/Draining"}
        self.assertEqual(violations({"draining": True}, schema), [])
        for value in ({}, {"draining": 1}, {"draining": True, "x": 1}, []):
            self.assertNotEqual(violations(value, schema), [], value)
