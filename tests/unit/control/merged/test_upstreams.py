"""``/v1/upstreams`` of a daemon with workers."""

from __future__ import annotations

from typing import Any

from natproxy.control.merged.errors import Refusal
from natproxy.control.peer import Peer
from natproxy.control.upstreams import UpstreamsResource
from tests.support.merged import SILENT, Call, MergedCase
from tests.support.recorded_upstreams import RecordedUpstreams

PATH = UpstreamsResource.path


class MergedUpstreamsTests(MergedCase):
    def setUp(self) -> None:
        super().setUp()
        self.sources = [RecordedUpstreams(), RecordedUpstreams()]
        self.each(PATH, *map(self.replies_of, self.sources))
        self.kept: list[tuple[str, str]] = []
        self.observed.keep_mode = lambda name, mode: self.kept.append((name, mode))

    def replies_of(self, source: RecordedUpstreams) -> Any:
        def reply(call: Call) -> dict[str, Any]:
            if call.members is not None:
                name, mode = call.members["upstream"], call.members["mode"]
                if source.now.find(name) is None:
                    raise Refusal(400, "there is none")
                source.set_mode(name, mode)
            return source.now.json()

        return reply

    def modes(self) -> list[list[str]]:
        return [[each.mode for each in source.now.upstreams] for source in self.sources]

    def test_numbers_are_summed(self) -> None:
        found = self.get(PATH).json
        first, second = found["upstreams"]
        self.assertEqual((first["active"], first["commands"]), (6, 2408))
        self.assertEqual((first["health"], second["health"]), ("up", "down"))
        self.assertEqual(found["queue"]["limit"], 200)
        self.assertEqual(found["missing"], [])

    def test_worker_that_differs_is_shown(self) -> None:
        self.sources[1].now = RecordedUpstreams().now._replace(
            upstreams=tuple(
                each._replace(health="down", last_error="it hangs")
                for each in self.sources[1].now.upstreams
            )
        )
        first = self.get(PATH).json["upstreams"][0]
        self.assertEqual((first["health"], first["last_error"]), ("down", "it hangs"))
        self.assertEqual(
            [(each["worker"], each["health"]) for each in first["workers"]],
            [(0, "up"), (1, "down")],
        )

    def test_worker_that_does_not_reply_is_named(self) -> None:
        self.workers[0].hangs = True
        response = self.get(PATH)
        self.assertEqual(self.missing(response), [0])
        self.assertEqual(response.json["missing"], [{"worker": 0, "reason": SILENT}])
        self.assertEqual(response.json["upstreams"][0]["active"], 3)
        self.workers[1].hangs = True
        self.assertEqual(self.get(PATH).status, 503)

    def test_malformed_reply_is_missing(self) -> None:
        for wrong in ({}, {"upstreams": 1, "queue": {}}, {"upstreams": [{}], "queue": {}}):
            self.workers[0].replies[PATH] = wrong
            self.assertEqual(self.missing(self.get(PATH)), [0], wrong)

    def test_mode_is_set_in_all_workers_and_kept(self) -> None:
        response = self.post(PATH, {"upstream": "files-a", "mode": "maintenance"})
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json["upstreams"][0]["mode"], "maintenance")
        self.assertEqual(self.modes(), [["maintenance", "ready"]] * 2)
        self.assertEqual(self.kept, [("files-a", "maintenance")])
        self.assertIsInstance(self.workers[1].calls[-1].peer, Peer)

    def test_mode_is_kept_for_a_worker_that_does_not_reply(self) -> None:
        self.workers[0].hangs = True
        response = self.post(PATH, {"upstream": "files-a", "mode": "drain"})
        self.assertEqual((response.status, self.missing(response)), (200, [0]))
        self.assertEqual(self.kept, [("files-a", "drain")])
        self.assertEqual(self.modes(), [["ready", "ready"], ["drain", "ready"]])

    def test_wrong_requests_change_nothing(self) -> None:
        for members in ({}, {"upstream": "x", "mode": "drain"}, {"upstream": "files-a"}):
            self.assertEqual(self.post(PATH, members).status, 400)
        self.assertIn("files-b", self.post(PATH, {"upstream": "x", "mode": "drain"}).json["error"])
        for worker in self.workers:
            worker.hangs = True
        self.assertEqual(self.post(PATH, {"upstream": "x", "mode": "drain"}).status, 503)
        self.assertEqual((self.kept, self.modes()), ([], [["ready", "ready"]] * 2))

    def test_status_has_the_upstreams_of_all_workers(self) -> None:
        status = {"table": 1, "upstream": "tcp:a:1"}
        worker = {**status, "worker": 0, "upstreams": self.sources[0].now.json()}
        self.each("/v1/status", worker, {**worker, "worker": 1})
        self.assertEqual(self.get("/v1/status").json["upstreams"]["upstreams"][0]["active"], 6)
        # A worker of an earlier version has none.
        self.each("/v1/status", worker, {**status, "worker": 1})
        self.assertEqual(self.get("/v1/status").json["upstreams"]["upstreams"][0]["active"], 3)
        self.each("/v1/status", status, status)
        self.assertIsNone(self.get("/v1/status").json["upstreams"])
