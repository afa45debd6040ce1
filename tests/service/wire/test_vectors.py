"""Schemas and golden messages of service/wire: the code and the data say the same.

After a field was added, ``PYTHONPATH=. python tests/service/wire/test_vectors.py`` writes the vectors anew; ``git
diff`` has to show additions only.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from service import wire
from service.client.sockets import EventSocket
from service.journal.journal import Journal
from service.publishing.replies import Replies
from service.wire import messages, requests
from service.wire.heartbeat import PREVIEW_HEADER_BYTES, Heartbeat, PreviewHeader, parse_heartbeat
from service.wire.messages import (
    CODES,
    KINDS,
    Event,
    ProtocolError,
    converted,
    decode_json,
    heartbeat_topic,
    make_event,
    movie_record,
    parse_event,
    parse_topic,
    topic,
)
from streamer import jsontext
from tests.service_samples import full_fields, make_record

DRAFT = "https://json-schema.org/draft/2020-12/schema"
VECTORS = list(wire.vectors())
OTHERS = set(
    "event-minor-raised event-unknown-fields event-unknown-kind heartbeat-empty heartbeat-unknown-fields "
    "reply-unknown-fields request-hello-unknown-fields request-ping-one-frame request-control-no-arguments".split()
)
OURS = [vector for vector in VECTORS if vector.valid and vector.name not in OTHERS]
"""What the code makes itself; the others come from another version or another client."""
SCHEMAS = {name: wire.schema(name) for name in wire.schema_names()}
BODIES: dict[str, Any] = {kind: body for body, kind in messages._KINDS.items()}
Rule = Callable[..., Any]
STRUCTS: dict[str, type] = {
    **BODIES,
    "heartbeat": Heartbeat,
    "preview": PreviewHeader,
    **{f"request-{verb.decode().lower()}": kind for verb, kind in requests._REQUESTS.items()},
    **{f"reply-{verb.decode().lower()}": kind for verb, kind in requests._REPLIES.items()},
}


def named(vector: wire.Vector) -> str:
    return vector.name


# ------------------------------------------------------------ what the code decodes


def decode(vector: wire.Vector) -> Any:
    """Struct of a message, by the product's own decoders."""
    if vector.what == "request":
        return requests.decode_request(vector.frames)
    if vector.what == "reply":
        return requests.decode_reply(vector.frames)
    if len(vector.frames) != (3 if vector.what == "preview" else 2):
        raise ProtocolError("number of frames")
    kind = parse_topic(vector.frames[0]).kind
    if vector.what == "preview":
        return converted(decode_json(vector.frames[1], limit=PREVIEW_HEADER_BYTES), PreviewHeader)
    return parse_heartbeat(vector.frames[1]) if kind == "hb" else parse_event(vector.frames[1])


def fields_of(message: Any) -> dict[str, Any]:
    """What a vector states of a decoded message."""
    raw = {"raw": b""} if isinstance(message, Event) else {}
    fields: dict[str, Any] = json.loads(jsontext.encode(msgspec.structs.replace(message, **raw)))
    return {name: value for name, value in fields.items() if name not in raw}


def test_there_are_enough_of_them_and_each_says_what_it_is() -> None:
    assert len(VECTORS) >= 24
    for vector in VECTORS:
        assert vector.note
        assert vector.name.startswith("refused-") is not vector.valid
        assert (vector.decoded is None, vector.error in CODES) == (not vector.valid, not vector.valid)
        assert not vector.valid or vector.schema in SCHEMAS
    stems = {path.stem for path in Path(wire.__file__).with_name("vectors").iterdir()}
    assert stems == {vector.name for vector in VECTORS}
    kinds = {parse_topic(vector.frames[0]).kind for vector in VECTORS if vector.what == "event" and vector.valid}
    assert kinds >= set(KINDS)
    verbs = {vector.frames[0] for vector in VECTORS if vector.what in ("request", "reply") and vector.valid}
    assert verbs == {*requests._REQUESTS, *requests._REPLIES, requests.EV, requests.ROW}


@pytest.mark.parametrize("vector", [one for one in VECTORS if one.valid], ids=named)
def test_what_is_valid_is_decoded_as_stated(vector: wire.Vector) -> None:
    message = decode(vector)
    assert fields_of(message) == vector.decoded
    if isinstance(message, Event) and message.kind in BODIES:
        body = {**message.body, "session": message.session} if message.kind == "movie" else message.body
        assert msgspec.convert(body, BODIES[message.kind])
    if vector.what == "preview":
        assert len(vector.frames[2]) == message.height * message.width


@pytest.mark.parametrize("vector", [one for one in VECTORS if not one.valid], ids=named)
def test_what_is_invalid_is_refused_with_the_stated_code(vector: wire.Vector) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(vector)
    assert caught.value.code == vector.error


def test_the_server_answers_what_is_invalid_with_the_stated_code(journal: Journal) -> None:
    refused = [vector for vector in VECTORS if vector.what == "request" and not vector.valid]
    assert len(refused) >= 5
    for vector in refused:
        (verb, reply), *more = Replies(journal).answer(b"peer", vector.frames, local=True)
        assert (verb, json.loads(reply)["code"], more) == (b"ERROR", vector.error, []), vector.name


def test_a_subscriber_takes_what_is_valid_and_survives_the_rest(short_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.bind(f"ipc://{short_path}/events.sock")
        listener = EventSocket(context, f"ipc://{short_path}/events.sock", b"")
        try:
            assert publisher.poll(10_000)
            for vector in VECTORS:
                if vector.what in ("event", "heartbeat"):
                    publisher.send_multipart(vector.frames)
                    message = listener.receive(10.0)
                    assert (message and fields_of(message)) == vector.decoded, vector.name
        finally:
            listener.close()


def test_a_truncated_movie_can_be_read_and_names_what_it_lacks() -> None:
    (vector,) = [vector for vector in VECTORS if vector.name == "event-movie-truncated"]
    message = parse_event(vector.frames[1])
    record = movie_record(message)
    assert message.body["truncated"] == ["metrics.shifts_yx_px"]
    assert record.metrics is not None
    assert (record.metrics.shifts_yx_px, record.metrics.frc) == ([], [1.0, 0.5])


# ------------------------------------------------------------ what the code encodes


def encode(vector: wire.Vector) -> list[bytes]:
    """Frames that the product makes of what a vector states."""
    fields = vector.decoded or {}
    if vector.what in ("request", "reply"):
        if vector.frames[0] in (requests.EV, requests.ROW):
            return [vector.frames[0], event_of(fields).raw]
        kinds: Any = requests._REQUESTS if vector.what == "request" else requests._REPLIES
        return requests.encode_message(converted(fields, kinds[vector.frames[0]]))
    if vector.what == "event":
        made = event_of(fields)
        return [topic(made.instance, made.kind, made.session), made.raw]
    name = parse_topic(vector.frames[0])
    if vector.what == "heartbeat":
        return [heartbeat_topic(name.instance), jsontext.encode(converted(fields, Heartbeat))]
    first = topic(name.instance, "preview", fields["session"])
    return [first, jsontext.encode(converted(fields, PreviewHeader)), *vector.frames[2:]]


def event_of(fields: dict[str, Any]) -> Event:
    """Event from what a vector states; that of a truncated movie from the whole record."""
    envelope = {name: fields[name] for name in ("instance", "epoch", "seq", "kseq", "session", "t_utc")}
    if "truncated" in fields["body"]:
        return make_event(make_record(**full_fields("grid1/a.tif", n_frames=6000)), **envelope)
    session = {"session": fields["session"]} if fields["kind"] == "movie" else {}
    return make_event(msgspec.convert({**fields["body"], **session}, BODIES[fields["kind"]]), **envelope)


@pytest.mark.parametrize("vector", OURS, ids=named)
def test_the_code_encodes_the_same_bytes(vector: wire.Vector) -> None:
    assert encode(vector) == list(vector.frames)


def test_ev_and_row_hold_the_very_bytes_that_were_published() -> None:
    bytes_of = {vector.name: vector.frames for vector in VECTORS}
    assert bytes_of["reply-ev"] == (b"EV", bytes_of["event-movie-done"][1])
    assert bytes_of["reply-row"] == (b"ROW", bytes_of["event-model"][1])


# ------------------------------------------------------------ schemas


def fits(value: Any, schema: Any, root: Any) -> bool:
    """A validator for the keywords that our schemas use, and for no others."""
    return schema if isinstance(schema, bool) else all(RULES[k](value, schema[k], schema, root) for k in schema)


def is_of(kind: str, value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    return isinstance(value, types.get(kind, ()))


def refer(value: Any, told: str, _: Any, root: Any) -> bool:
    if told.startswith("#/$defs/"):
        return fits(value, root["$defs"][told.removeprefix("#/$defs/")], root)
    other = SCHEMAS[told.removesuffix(".json")]
    return fits(value, other, other)


def others(value: dict[str, Any], schema: Any) -> list[Any]:
    return [value[name] for name in value.keys() - schema.get("properties", {}).keys()]


def of(kind: type | tuple[type, ...], holds: Rule) -> Rule:
    """A rule says something of values of one type only."""
    return lambda value, *rest: isinstance(value, bool) or not isinstance(value, kind) or holds(value, *rest)


NUMBER = (int, float)
RULES: dict[str, Rule] = {
    **dict.fromkeys(("$schema", "$defs", "title", "description", "default", "examples", "then"), lambda *_: True),
    "type": lambda v, t, *_: any(is_of(kind, v) for kind in ([t] if isinstance(t, str) else t)),
    "const": lambda v, t, *_: v == t,
    "enum": lambda v, t, *_: v in t,
    "minimum": of(NUMBER, lambda v, t, *_: v >= t),
    "maximum": of(NUMBER, lambda v, t, *_: v <= t),
    "exclusiveMinimum": of(NUMBER, lambda v, t, *_: v > t),
    "minItems": of(list, lambda v, t, *_: len(v) >= t),
    "maxItems": of(list, lambda v, t, *_: len(v) <= t),
    "maxLength": of(str, lambda v, t, *_: len(v) <= t),
    "pattern": of(str, lambda v, t, *_: re.search(t, v)),
    "required": of(dict, lambda v, t, *_: set(t) <= v.keys()),
    "properties": of(dict, lambda v, t, _, root: all(fits(v[name], t[name], root) for name in t.keys() & v.keys())),
    "additionalProperties": of(dict, lambda v, t, s, root: all(fits(item, t, root) for item in others(v, s))),
    "items": of(list, lambda v, t, s, root: all(fits(i, t, root) for i in v[len(s.get("prefixItems", ())) :])),
    "prefixItems": of(list, lambda v, t, _, root: all(fits(*pair, root) for pair in zip(v, t, strict=False))),
    "anyOf": lambda v, t, _, root: any(fits(v, option, root) for option in t),
    "allOf": lambda v, t, _, root: all(fits(v, option, root) for option in t),
    "if": lambda v, t, s, root: not fits(v, t, root) or fits(v, s["then"], root),
    "$ref": refer,
}  # fmt: skip


def keywords(schema: Any) -> set[str]:
    """All that a schema uses, at any depth."""
    if not isinstance(schema, dict):
        return set()
    named = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    listed = [part for key in ("anyOf", "allOf", "prefixItems") for part in schema.get(key, ())]
    single = [schema.get(key) for key in ("items", "additionalProperties", "if", "then")]
    return set(schema).union(*map(keywords, [*named, *listed, *single]))


def other_validator(name: str) -> Any:
    """The same by jsonschema, where somebody has installed it."""
    jsonschema, referencing = (importlib.import_module(module) for module in ("jsonschema", "referencing"))
    of_draft = referencing.jsonschema.DRAFT202012
    registry = referencing.Registry().with_resources(
        (f"{name}.json", of_draft.create_resource(content)) for name, content in SCHEMAS.items()
    )
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    return jsonschema.Draft202012Validator(SCHEMAS[name], registry=registry)


def is_valid(raw: bytes, name: str) -> bool:
    """Whether the JSON of a frame is that of a schema; both validators have to agree."""
    try:
        value = decode_json(raw or b"{}", limit=2**20)
    except ProtocolError:
        return False
    valid = fits(value, SCHEMAS[name], SCHEMAS[name])
    if importlib.util.find_spec("jsonschema"):
        assert other_validator(name).is_valid(value) is valid
    return valid


@pytest.mark.parametrize("vector", [one for one in VECTORS if one.schema], ids=named)
def test_the_schemas_accept_what_is_valid_and_refuse_what_is_not(vector: wire.Vector) -> None:
    raw = vector.frames[1] if len(vector.frames) > 1 else b""
    assert is_valid(raw, vector.schema or "") is vector.valid


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_says_what_it_describes_and_uses_only_what_is_known_here(name: str) -> None:
    schema = SCHEMAS[name]
    assert (schema["$schema"], schema["type"]) == (DRAFT, "object")
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["title"] and part["description"]  # noqa: PT018
        assert all(field["description"] for field in part["properties"].values())
    assert keywords(schema) <= RULES.keys()


def test_every_message_has_a_schema_and_the_envelope_its_fields() -> None:
    assert {*SCHEMAS} == {*STRUCTS, "event"}
    envelope = [name for name in Event.__struct_fields__ if name not in ("body", "raw")]
    assert SCHEMAS["event"]["required"] == envelope
    assert list(SCHEMAS["event"]["properties"]) == [*envelope, "truncated"]
    assert {rule["then"]["$ref"] for rule in SCHEMAS["event"]["allOf"]} == {f"{kind}.json" for kind in KINDS}


@pytest.mark.parametrize(("name", "struct"), STRUCTS.items(), ids=lambda one: one if isinstance(one, str) else "")
def test_a_schema_has_the_fields_of_the_struct(name: str, struct: type) -> None:
    whole = msgspec.json.schema(struct)
    top = whole["$ref"].rpartition("/")[2]
    ours = {**SCHEMAS[name].get("$defs", {}), top: SCHEMAS[name]}
    assert ours.keys() == whole["$defs"].keys()
    for part, told in whole["$defs"].items():
        outside = {"session"} if part == "MovieRecord" else set()
        assert set(ours[part]["properties"]) == set(told["properties"]) - outside, part
        assert set(ours[part].get("required", ())) == set(told["required"]) - outside, part
        for field, content in ours[part]["properties"].items():
            default = told["properties"][field].get("default")
            assert content.get("default") in (None, list(default) if default == () else default)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_code_needs_the_schema_needs_too(kind: str) -> None:
    vector = next(one for one in OURS if one.decoded and one.decoded.get("kind") == kind)
    whole = json.loads(vector.frames[1])
    assert is_valid(vector.frames[1], "event")
    for field in [*SCHEMAS["event"]["required"], *SCHEMAS[kind]["required"]]:
        for changed in ({k: v for k, v in whole.items() if k != field}, whole | {field: [1]}):
            raw = jsontext.encode(changed)
            assert not is_valid(raw, "event"), field
            with pytest.raises((ProtocolError, msgspec.ValidationError)):
                event_of({**fields_of(parse_event(raw)), "kind": kind})


def write() -> None:
    """Write the vectors of what the code encodes anew, from what they state."""
    for vector in OURS:
        frames = encode(vector)
        decoded = fields_of(decode(replace(vector, frames=tuple(frames))))
        texts = [{"utf8": raw.decode()} if raw.isascii() and b"\0" not in raw else {"hex": raw.hex()} for raw in frames]
        path = Path(wire.__file__).with_name("vectors") / f"{vector.name}.json"
        fields = {**json.loads(path.read_bytes()), "frames": texts, "decoded": decoded}
        path.write_text(json.dumps(fields, indent=1) + "\n")


if __name__ == "__main__":
    write()
