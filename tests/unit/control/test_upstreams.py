"""``/v1/upstreams`` of one process."""

from __future__ import annotations

from natproxy.control.site import control_site
from natproxy.control.upstreams import MODE_EVENT, UpstreamsResource
from natproxy.records.event_rows import EVENT
from natproxy.records.upstreams import UpstreamsRecord
from tests.support.control_resources import ControlCase
from tests.support.recorded_upstreams import RecordedUpstreams, two

PATH = UpstreamsResource.path


class UpstreamsTests(ControlCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstreams = self.observed.upstreams = RecordedUpstreams()
        self.site = control_site(self.make_context())

    def actions(self) -> list[tuple[str, str | None]]:
        rows, _ = self.ring.read(0, 100)
        return [(row[EVENT], row[9]) for row in rows]

    def test_upstreams_as_json(self) -> None:
        self.assertEqual(UpstreamsRecord.from_json(self.get(PATH).json), two())

    def test_mode_is_set_and_recorded(self) -> None:
        response = self.post(PATH, {"upstream": "files-b", "mode": "drain"})
        self.assertEqual(response.status, 200)
        self.assertEqual(self.upstreams.set, [("files-b", "drain")])
        modes = [each["mode"] for each in response.json["upstreams"]]
        self.assertEqual(modes, ["ready", "drain"])
        self.assertEqual(self.actions(), [(MODE_EVENT, "files-b: drain")])

    def test_mode_that_it_has_is_no_event(self) -> None:
        response = self.post(PATH, {"upstream": "files-a", "mode": "ready"})
        self.assertEqual(response.status, 200)
        self.assertEqual((self.upstreams.set, self.actions()), ([], []))

    def test_wrong_requests_change_nothing(self) -> None:
        for members, reason in (
            ({}, "upstream and mode are needed: a name, and ready or drain or maintenance"),
            ({"upstream": "files-a"}, "upstream and mode are needed"),
            ({"mode": "drain"}, "upstream and mode are needed"),
            ({"upstream": "x\n", "mode": "drain"}, "there are files-a, files-b"),
            ({"upstream": "", "mode": "drain"}, "a name has 1 to 1024 characters"),
            ({"upstream": 1, "mode": "drain"}, "a text is needed"),
            ({"upstream": "a" * 1025, "mode": "drain"}, "a name has 1 to 1024 characters"),
            ({"upstream": "files-a", "mode": "up"}, "neither ready nor drain nor maintenance"),
            ({"upstream": "files-a", "mode": ["up"]}, "neither ready nor drain"),
            ({"name": "files-a", "mode": "drain"}, "unknown member"),
        ):
            self.assert_refused(self.post(PATH, members), 400, reason)
        self.assertEqual((self.upstreams.set, self.actions()), ([], []))

    def test_without_actions_it_is_only_read(self) -> None:
        from natproxy.control.resources import resources_of

        context = self.make_context()
        self.site = control_site(context, resources_of(context, actions=False))
        self.assertEqual(self.get(PATH).status, 200)
        self.assert_refused(self.post(PATH, {"upstream": "files-a", "mode": "drain"}), 405, "GET")
        self.assertEqual(self.upstreams.set, [])

    def test_file_server_has_none(self) -> None:
        self.observed.upstreams = None
        self.site = control_site(self.make_context())
        self.assert_refused(self.get(PATH), 404, "no such path")
