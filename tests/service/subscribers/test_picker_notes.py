"""What the picker says of a micrograph without particles, and what it left out."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import mrcfile
import pytest

from service.subscribers.picker import pick_movie
from streamer import jsontext
from streamer.movie_record import OutputFile
from streamer.writers.star import ROLE_EVEN, ROLE_MICROGRAPH, ROLE_ODD
from tests.service_samples import make_record
from tests.simulated_movies import images

SHAPE = (192, 192)
FILES = {ROLE_MICROGRAPH: "m.mrc", ROLE_EVEN: "m_EVN.mrc", ROLE_ODD: "m_ODD.mrc"}


def picked(directory, *, vacuum=False, empty=None, restoration="wiener"):
    """What is found in noise; with a vacuum, its left half has twice the counts."""
    even, odd = (50.0 + 2.0 * images(*SHAPE, seed=seed) for seed in (1, 2))
    if vacuum:
        for half in (even, odd):
            half[:, :80] *= 2.0
    (directory / "grid1").mkdir()
    for name, image in zip(FILES.values(), (even + odd, even, odd), strict=True):
        with mrcfile.new(directory / "grid1" / name) as file:
            file.set_data(image.numpy())
    outputs = [
        OutputFile(role=role, path=name, bytes=1, sha256="d" * 64, shape=list(SHAPE), pixel_size=4.0)
        for role, name in FILES.items()
    ]
    record = make_record(outputs=outputs)
    record = replace(record, restoration=restoration, metrics=replace(record.metrics, empty=empty))
    event = SimpleNamespace(session="grid1", body=json.loads(jsontext.encode(record)))
    return pick_movie(event, directory, diameter=112.0)


def test_noise_alone_says_that_nothing_stands_out(tmp_path):
    found = picked(tmp_path)
    assert (found.particles, found.not_specimen) == (0, 0.0)
    assert found.note == "nothing stands out of the noise as particles of this diameter would"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"empty": "shows nothing beside the others"}, "shows nothing beside the others"),
        ({"restoration": "none"}, "the halves show no signal"),
    ],
)
def test_a_movie_that_is_known_to_show_nothing_says_why(tmp_path, changes, note):
    found = picked(tmp_path, **changes)
    assert (found.particles, found.note) == (0, note)


def test_what_is_left_out_is_named_with_its_share(tmp_path):
    found = picked(tmp_path, vacuum=True)
    assert 0.3 < found.not_specimen < 0.7
    assert found.note is not None
    share = f"{found.not_specimen:.0%}"
    assert found.note.startswith(f"nothing stands out as particles would, beside {share} ")
