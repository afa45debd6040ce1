"""What is left out under load is left out whole, named, and changes nothing else."""

from dataclasses import replace
from itertools import chain, combinations

import pytest
import torch

from streamer import jsontext
from streamer.metadata.sidecars import read_sidecar
from streamer.movie_record import ModelRef, MovieRecord
from streamer.pipeline import process_movie
from streamer.readers.gain import read_gain
from streamer.records import Correction
from streamer.runtime.stopwatch import Stopwatch
from streamer.settings import DataPathSettings, OutputSettings
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from tests.jobs import job_of, movie_at

SCOPE = Microscope(shape=(192, 192), n_frames=8, pixel_size=2.0, dose_per_frame=3.0, voltage_kv=200.0)
MODEL = ModelRef(version="v0003", sha256="cd" * 32, weight=((0.01, 0.5), (0.1, 0.25), (0.16, 0.0)))
STEPS = ("preview", "denoise", "super-resolution")
PICTURES = {"thumbnail", "denoised thumbnail", "super-resolution thumbnail", "power spectrum"}
NEVER_SHED = ("micrograph", "even", "odd", "motion")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A movie with signal, and its gain."""
    root = tmp_path_factory.mktemp("microscope")
    plan = Plan(directory=root / "grid1", scope=SCOPE, specimen=random_protein(1, 800), seed=2, truth=False)
    (exposure,) = expose(plan)
    path = exposure.path
    movie = movie_at(path, read_sidecar(path), root, session="grid1")
    return movie, read_gain(root / "grid1" / "gain_reference.mrc")


def believed(sums, spectrum):
    """A network that is believed by half: its restored image is another than the Wiener estimate."""
    nothing = torch.zeros_like(sums.total)
    weight = torch.full_like(spectrum.fftfreq, 0.5)
    return Correction(total=nothing, even=nothing, odd=nothing, weight=weight, model=MODEL)


def never(*what, **more):
    raise AssertionError("this was to be left out")


def process(material, directory, shed=(), **changes):
    """Process the movie with a network, an image of half the pixel size and all that is learned from."""
    movie, gain = material
    settings = DataPathSettings(outputs=OutputSettings(super_resolution="always"))
    job = job_of(directory, gain, **{"propose": believed, "settings": settings, "shed": shed} | changes)
    return process_movie(movie, job, Stopwatch())


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    """The record where nothing is left out."""
    return process(material, tmp_path_factory.mktemp("whole"))


def outputs(record):
    return {file.role: file for file in record.outputs}


every_choice = [*chain.from_iterable(combinations(STEPS, n) for n in range(1, 4))]


@pytest.fixture(scope="module", params=every_choice, ids="+".join)
def shed(request, material, tmp_path_factory):
    """What was left out, the record, and where the outputs are; whatever is left out fails the test when asked for."""
    directory, chosen = tmp_path_factory.mktemp("shed"), request.param
    with pytest.MonkeyPatch.context() as patch:
        if "super-resolution" in chosen:
            patch.setattr("streamer.super_resolution.step.accumulate", never)
        if "preview" in chosen:
            patch.setattr("streamer.writers.outputs.encode_png", never)
            patch.setattr("streamer.writers.outputs.encode_power_spectrum", never)
        record = process(material, directory, chosen, propose=never if "denoise" in chosen else believed)
    return chosen, record, directory


def test_without_load_everything_is_made(whole):
    assert whole.shed == []
    assert set(outputs(whole)) >= PICTURES | {"super-resolution", "denoised", *NEVER_SHED}
    assert (whole.restoration, whole.model) == ("network", MODEL)
    assert whole.metrics.sr.verdict != "not tried"


def test_the_record_names_what_it_lacks_and_so_does_its_file(shed):
    chosen, record, directory = shed
    assert record.state == "done"
    assert record.shed == list(chosen)
    (path,) = directory.rglob("*.json")
    assert jsontext.decode(path.read_bytes(), MovieRecord) == record


def test_sum_halves_and_motion_have_the_same_bytes(shed, whole):
    """Alignment and quality are never left out."""
    _, record, _ = shed
    for role in NEVER_SHED:
        assert outputs(record)[role] == outputs(whole)[role], role


def test_the_figures_of_alignment_and_quality_are_the_same(shed, whole):
    chosen, record, _ = shed
    changed = {"sr"} if "super-resolution" in chosen else set()
    if "denoise" in chosen:
        changed.add("snbr_half_denoised")
    for name in whole.metrics.__dataclass_fields__:
        same = getattr(record.metrics, name) == getattr(whole.metrics, name)
        assert same == (name not in changed), name
    assert record.source == whole.source


def test_nothing_more_is_left_out_than_was_said(shed, whole):
    chosen, record, directory = shed
    lacks = set()
    if "preview" in chosen:
        lacks |= PICTURES
    if "super-resolution" in chosen:
        lacks |= {"super-resolution", "super-resolution thumbnail"}
    assert set(outputs(record)) == set(outputs(whole)) - lacks
    written = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.suffix != ".json"}
    assert {file.path for file in record.outputs} == {name for name in written if (directory / name).is_file()}


def test_without_the_network_the_wiener_estimate_serves(shed, whole):
    chosen, record, _ = shed
    if "denoise" in chosen:
        assert (record.restoration, record.model) == ("wiener", None)
        assert outputs(record)["denoised"].sha256 != outputs(whole)["denoised"].sha256
    else:
        assert (record.restoration, record.model) == ("network", MODEL)
        assert outputs(record)["denoised"] == outputs(whole)["denoised"]


def test_without_the_second_pass_the_verdict_says_so(shed, whole):
    chosen, record, _ = shed
    if "super-resolution" in chosen:
        assert (record.metrics.sr.verdict, record.metrics.sr.reason) == ("not tried", "shed")
    else:
        assert record.metrics.sr == whole.metrics.sr
        assert outputs(record)["super-resolution"] == outputs(whole)["super-resolution"]


def test_the_wiener_estimate_under_load_is_that_of_a_session_without_a_model(material, tmp_path):
    shed = process(material, tmp_path / "shed", ("denoise",))
    none = process(material, tmp_path / "none", propose=None)
    assert shed.outputs == none.outputs
    assert replace(shed, shed=[], times=none.times) == none


def test_notes_of_the_daemon_are_flags(material, tmp_path):
    note = "shed: preview: 8 movies wait"
    assert note in process(material, tmp_path, ("preview",), notes=(note,)).flags
