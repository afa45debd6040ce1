import json
import math
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import jsontext
from streamer.movie_record import MovieRecord, OutputFile, Times


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: str
    value: float | None = None
    many: list[float | None] = field(default_factory=list)


class One(msgspec.Struct, tag="one"):
    a: int


class Two(msgspec.Struct, tag="two"):
    b: str


def test_a_record_comes_back():
    record = MovieRecord(
        movie_id="0" * 16,
        session="s",
        path="a/b.tiff",
        state="done",
        flags=["gain: none"],
        outputs=[OutputFile(role="micrograph", path="x.mrc", bytes=3, sha256="0" * 64, shape=[2, 3])],
        times=Times(done="now", stage_s={"read": 0.5}),
    )
    assert jsontext.decode(jsontext.encode(record), MovieRecord) == record
    assert jsontext.decode(jsontext.encode(record, indent=1), MovieRecord) == record


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_becomes_null(value):
    raw = jsontext.encode({"a": value, "b": [1.0, value], "c": {"d": (value,)}})
    assert json.loads(raw) == {"a": None, "b": [1.0, None], "c": {"d": [None]}}
    assert jsontext.decode(jsontext.encode(Thing(name="x", value=value)), Thing).value is None


def test_one_line_unless_indented():
    assert jsontext.encode({"a": [1, 2], "b": "ä"}) == '{"a":[1,2],"b":"ä"}'.encode()
    assert jsontext.encode({"a": 1}, indent=1) == b'{\n "a": 1\n}'


def test_a_name_that_is_not_utf8_survives():
    name = b"grid_\xff\x80.tiff".decode("utf-8", "surrogateescape")
    raw = jsontext.encode(Thing(name=name))
    assert raw == rb'{"name":"grid_\udcff\udc80.tiff","value":null,"many":[]}'
    assert jsontext.decode(raw, Thing).name.encode("utf-8", "surrogateescape") == b"grid_\xff\x80.tiff"


@given(st.binary(max_size=30))
def test_any_name_survives(raw):
    name = raw.decode("utf-8", "surrogateescape")
    assert jsontext.decode(jsontext.encode(Thing(name=name)), Thing).name == name


@given(st.floats(), st.lists(st.floats(), max_size=3))
def test_any_number_survives_or_is_null(value, many):
    back = jsontext.decode(jsontext.encode(Thing(name="x", value=value, many=many)), Thing)
    assert [back.value, *back.many] == [v if math.isfinite(v) else None for v in (value, *many)]


def test_unknown_fields_are_ignored_and_wrong_ones_are_not():
    assert jsontext.decode(b'{"name":"x","later":1}', Thing) == Thing(name="x")
    for raw in (b"", b"{", b"[]", b'{"value":1}', b'{"name":3}'):
        with pytest.raises(ValueError, match=r"."):
            jsontext.decode(raw, Thing)


def test_a_union_of_tagged_structs():
    assert jsontext.decode_any(jsontext.encode(Two(b="x")), One | Two) == Two(b="x")
    assert jsontext.decode_any(b'{"type":"one","a":3}', One | Two) == One(a=3)
