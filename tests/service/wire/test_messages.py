from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.wire.heartbeat import Heartbeat, parse_heartbeat
from service.wire.messages import (
    HEADER_BYTES,
    TOPIC_BYTES,
    Alert,
    Event,
    ModelChange,
    ProtocolError,
    SessionChange,
    decode_json,
    heartbeat_topic,
    instance_topic,
    make_event,
    movie_record,
    parse_event,
    parse_topic,
    subject_of,
    topic,
)
from streamer import jsontext
from streamer.movie_record import SUPER_RESOLUTION, MovieRecord
from tests.service_samples import UTC, full_fields, make_record

NAMES = st.binary(min_size=1, max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def event_of(body: object, **changes: object) -> Event:
    numbers = {"instance": "krios1", "epoch": "e", "seq": 7, "kseq": 3, "session": "grid1", "t_utc": UTC}
    return make_event(body, **{**numbers, **changes})


def test_a_movie_event_is_the_record_flattened_below_its_envelope() -> None:
    record = make_record()
    event = event_of(record)
    wire = json.loads(event.raw)
    assert list(wire)[:10] == [
        "schema",
        "minor",
        "instance",
        "epoch",
        "seq",
        "kseq",
        "kind",
        "event_id",
        "session",
        "t_utc",
    ]
    assert {
        "movie_id",
        "path",
        "revision",
        "supersedes",
        "state",
        "reason",
        "flags",
        "shed",
        "source",
        "metrics",
        "ctf",
        "restoration",
        "model",
        "outputs",
        "software",
        "times",
    } == set(wire) - set(list(wire)[:10])
    assert wire["schema"] == "streamer.event/1"
    assert (wire["seq"], wire["kseq"], wire["kind"], wire["session"]) == (7, 3, "movie", "grid1")
    assert wire["source"]["pixel_size"] == 0.83
    assert movie_record(parse_event(event.raw)) == record


def test_parsing_returns_the_exact_bytes() -> None:
    event = event_of(make_record())
    assert parse_event(event.raw) == event
    assert parse_event(event.raw).raw == event.raw


def test_golden_vector() -> None:
    """What is on the wire may gain fields, never lose or rename one: other people's programs read this."""
    event = event_of(Alert(name="disk-full", severity="critical", state="raised", message="2 % left"))
    assert event.raw == (
        b'{"schema":"streamer.event/1","minor":0,"instance":"krios1","epoch":"e","seq":7,"kseq":3,'
        b'"kind":"alert","event_id":"894fb6d5b71678c48a51d15d21900593","session":"grid1",'
        b'"t_utc":"2026-11-20T12:00:00.000Z","name":"disk-full","severity":"critical","state":"raised",'
        b'"message":"2 % left"}'
    )


def test_event_id_depends_on_epoch_and_seq_only() -> None:
    body = SessionChange(state="started")
    assert event_of(body).event_id == event_of(make_record()).event_id
    assert event_of(body).event_id != event_of(body, seq=8).event_id
    assert event_of(body).event_id != event_of(body, epoch="f").event_id


def test_subjects() -> None:
    assert subject_of(make_record()) == make_record().movie_id
    assert subject_of(ModelChange(version="v0001", result="promoted")) == "v0001"
    other = ModelChange(version="v0001", result="promoted", network=SUPER_RESOLUTION)
    assert subject_of(other) == "super-resolution v0001"
    assert subject_of(Alert(name="x", severity="info", state="raised")) == "x"
    assert subject_of(SessionChange(state="started")) == ""


def test_unknown_fields_and_kinds_are_kept_for_whoever_knows_them() -> None:
    wire = json.loads(event_of(make_record()).raw) | {"kind": "weather", "minor": 9, "novel": {"a": [1]}}
    event = parse_event(jsontext.encode(wire))
    assert (event.kind, event.minor, event.body["novel"]) == ("weather", 9, {"a": [1]})


def test_unknown_fields_of_a_movie_are_ignored_by_the_record() -> None:
    wire = json.loads(event_of(make_record()).raw)
    wire["novel"] = wire["source"]["novel"] = 1
    assert movie_record(parse_event(jsontext.encode(wire))) == make_record()


@pytest.mark.parametrize("missing", ["epoch", "seq", "kind", "event_id"])
def test_an_envelope_has_to_be_whole(missing: str) -> None:
    wire = json.loads(event_of(make_record()).raw)
    del wire[missing]
    with pytest.raises(ProtocolError):
        parse_event(jsontext.encode(wire))


def test_another_major_version_is_refused() -> None:
    wire = json.loads(event_of(make_record()).raw) | {"schema": "streamer.event/2"}
    with pytest.raises(ProtocolError) as caught:
        parse_event(jsontext.encode(wire))
    assert caught.value.code == "BAD_VERSION"


# ------------------------------------------------------------ no NaN on the wire


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_are_not_finite_become_null(value: float) -> None:
    fields = full_fields("a.tif")
    fields["times"].stage_s["align"] = value
    fields["metrics"].frc.append(value)
    event = event_of(make_record(**fields))
    assert b"NaN" not in event.raw
    assert b"Infinity" not in event.raw
    assert event.body["metrics"]["frc"][-1] is None
    assert event.body["times"]["stage_s"]["align"] is None
    heartbeat = jsontext.encode(Heartbeat(latency_p50_s=value, rates={"movies": value}))
    assert json.loads(heartbeat, parse_constant=pytest.fail)["rates"]["movies"] is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_floats_that_are_not_finite_are_refused_on_arrival(number: str) -> None:
    with pytest.raises(ProtocolError):
        decode_json(b'{"a": %s}' % number.encode())


# ------------------------------------------------------------ hostile input


@given(st.text() | st.floats() | st.dictionaries(NAMES, NAMES | st.floats() | st.none()))
def test_whatever_is_encoded_can_be_decoded(value: object) -> None:
    decoded = decode_json(jsontext.encode({"value": value}))["value"]
    if not isinstance(value, float) and not (
        isinstance(value, dict) and any(isinstance(v, float) for v in value.values())
    ):
        assert decoded == value


@given(NAMES)
def test_any_file_name_survives_the_wire(name: str) -> None:
    record = make_record(name)
    event = parse_event(event_of(record).raw)
    assert event.body["source"]["path"] == name
    assert movie_record(event).source == record.source
    event.raw.decode("utf-8")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["schema", "seq", "kseq", "kind", "epoch", "pending", "alarms", "counts"]) | st.text(),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_only_protocol_errors_come_out_of_garbage(raw: bytes) -> None:
    for parse in (parse_event, parse_heartbeat, parse_topic, decode_json):
        try:
            parse(raw)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    "raw",
    [b"[" * 60_000, b'{"a":' * 10_000, b'{"a":' + b"9" * 5000 + b"}", b"\xff", b"", b"null", b'{"a":1}x'],
)
def test_hostile_json_is_one_kind_of_error(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_json(raw)


def test_the_length_is_checked_before_anything_is_decoded() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_json(b'{"a":"' + b"x" * HEADER_BYTES + b'"}')
    assert caught.value.code == "TOO_LARGE"


# ------------------------------------------------------------ limits


def test_an_event_that_is_too_long_gives_up_its_longest_figures_and_says_so() -> None:
    event = event_of(make_record(**full_fields("a.tif", n_frames=20_000)))
    assert len(event.raw) <= HEADER_BYTES
    assert event.body["truncated"] == ["metrics.shifts_yx_px"]
    assert event.body["metrics"]["shifts_yx_px"] == []
    assert event.body["metrics"]["ssnr_full"] == 0.2
    assert movie_record(event).state == "done"


def test_even_a_monstrous_record_becomes_an_event() -> None:
    fields = full_fields("a.tif") | {"flags": ["x" * 70_000]}
    fields["times"].stage_s.update({f"stage{i}": 0.1 for i in range(10_000)})
    event = event_of(make_record(**fields))
    assert len(event.raw) <= HEADER_BYTES
    assert event.body["state"] == "done"
    assert "flags" in event.body["truncated"]
    assert isinstance(movie_record(event), MovieRecord)


# ------------------------------------------------------------ topics


def test_topics() -> None:
    assert topic("krios1", "movie", "grid1") == b"v1/krios1/movie/grid1/"
    assert heartbeat_topic("krios1") == b"v1/krios1/hb/"
    assert parse_topic(b"v1/krios1/movie/grid1/") == ("krios1", "movie", "grid1")
    assert parse_topic(b"v1/krios1/hb/") == ("krios1", "hb", "")


def test_the_prefix_of_one_instance_is_not_that_of_another() -> None:
    assert not topic("krios10", "movie", "s").startswith(instance_topic("krios1"))


@given(st.text(max_size=300))
def test_every_session_has_a_topic_within_the_limit(session: str) -> None:
    raw = topic("i" * 32, "session", session)
    assert len(raw) <= TOPIC_BYTES
    assert parse_topic(raw).kind == "session"


@pytest.mark.parametrize(
    "raw", [b"", b"v2/a/hb/", b"v1/a/hb", b"v1//hb/", b"v1/a b/hb/", b"v1/a/movie/s/x/", b"v1/a/hb/" * 40]
)
def test_what_is_not_a_topic(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_topic(raw)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "x" * 33, ".", "..", "-x"])
def test_instance_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="instance name"):
        instance_topic(name)


def test_heartbeat_round_trip_and_forward_compatibility() -> None:
    heartbeat = Heartbeat(seq=5, kseq={"movie/grid1": 4}, alarms=[Alert(name="a", severity="info", state="raised")])
    raw = jsontext.encode(heartbeat)
    assert parse_heartbeat(raw) == heartbeat
    assert parse_heartbeat(raw[:-1] + b',"novel":1}') == heartbeat
