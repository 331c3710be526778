from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.control import json_list
from natproxy.client.control.json_list import JSONListParser, State

VALUES = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()))
OBJECTS = st.lists(st.dictionaries(st.text(), VALUES))


class JSONListParserTests(SynchronousTestCase):
    @given(
        objects=OBJECTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]), data=st.data()
    )
    def test_pieces_do_not_matter(
        self, objects: list[object], ascii_only: bool, indent: int | None, data: st.DataObject
    ) -> None:
        text = json.dumps(objects, ensure_ascii=ascii_only, indent=indent).encode()
        places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        parser = JSONListParser()
        found = []
        for start, stop in zip([0, *places], [*places, len(text)], strict=True):
            found += parser.feed(text[start:stop])
        self.assertEqual((found, parser.state), (objects, State.END))

    def test_object_is_returned_before_the_next_arrives(self) -> None:
        parser = JSONListParser()
        self.assertEqual(list(parser.feed(b'[{"a": 1}')), [{"a": 1}])
        self.assertEqual(list(parser.feed(b',\n{"b"')), [])
        self.assertEqual(list(parser.feed(b": 2}")), [{"b": 2}])
        self.assertIs(parser.state, State.AFTER_OBJECT)

    def test_what_is_no_list_of_objects_is_refused(self) -> None:
        for text in (b"{}", b"[1]", b"[{},]", b"[,{}]", b"[{}{}]", b"[]]", b"[[]]", b"null"):
            with self.assertRaises(ValueError, msg=text):
                list(JSONListParser().feed(text))

    def test_too_many_levels_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "too many levels"):
            list(JSONListParser().feed(b'[{"a":' + b"[" * 100_000))

    def test_malformed_object_is_not_kept_for_ever(self) -> None:
        parser = JSONListParser()
        with self.assertRaisesRegex(ValueError, "too long"):
            list(parser.feed(b"[{" + b"x" * (json_list.LONGEST + 1)))
