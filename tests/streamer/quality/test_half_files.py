"""What the records beside halves say of them."""

from dataclasses import replace

import numpy as np
import pytest

from streamer import jsontext
from streamer.quality.half_files import half_files, may_be_raised
from streamer.writers.mrc import encode_image
from tests.service_samples import make_record

NOISE = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)


@pytest.fixture
def gathered(tmp_path):
    """Halves of three micrographs, gathered by links, one of them marked."""

    def gather(name, marked):
        directory = tmp_path / "movies" / name / "r1"
        directory.mkdir(parents=True)
        record = make_record(f"{name}.tif")
        outputs = []
        for half in ("EVN", "ODD"):
            path = directory / f"{name}_{half}.mrc"
            path.write_bytes(encode_image(NOISE, pixel_size=1.0))
            (tmp_path / half).mkdir(exist_ok=True)
            (tmp_path / half / path.name).symlink_to(path)
            outputs.append(replace(record.outputs[0], path=path.name))
        metrics = replace(record.metrics, pattern_may_raise=marked)
        (directory / f"{name}.json").write_bytes(jsontext.encode(replace(record, outputs=outputs, metrics=metrics)))

    for name, marked in (("a", True), ("b", False), ("c", True)):
        gather(name, marked)
    return tmp_path


def test_links_to_halves_are_followed_to_their_records(gathered):
    sets = half_files(gathered / "EVN", gathered / "ODD", None, None)
    assert may_be_raised(sets) == 2
    assert may_be_raised(sets[1:2]) == 0


def test_halves_without_records_say_nothing(gathered):
    for half in ("EVN", "ODD"):
        (gathered / f"plain_{half}.mrc").write_bytes(encode_image(NOISE, pixel_size=1.0))
    assert may_be_raised(half_files(gathered / "plain_EVN.mrc", gathered / "plain_ODD.mrc", None, None)) is None
