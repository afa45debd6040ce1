import errno
import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import gemmi
import mrcfile
import msgspec
import numpy as np
import pytest
import torch

from streamer import fourier, jsontext, pipeline
from streamer.errors import (
    ModelError,
    MovieCorrupt,
    MovieMismatch,
    MovieNotReady,
    MovieUnsupported,
    OutputError,
    StageError,
)
from streamer.metadata.sidecars import read_sidecar
from streamer.movie_record import Acquisition, ModelRef, MovieRecord, Times, Usual
from streamer.pipeline import process_movie
from streamer.quality import estimators
from streamer.readers.gain import read_gain
from streamer.readers.movie import identity_of
from streamer.records import Correction, Gain, Movie
from streamer.runtime.stopwatch import Stopwatch
from streamer.settings import DataPathSettings, OutputSettings, settings_sha256
from streamer.simulation.microscope import Plan, encode, expose
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import random_protein
from streamer.sums import frame_sum, halves
from streamer.sums.group_files import read_groups
from streamer.super_resolution.training_data import read_averages, read_training_data
from tests.jobs import job_of

SCOPE = Microscope(shape=(256, 256), n_frames=8, pixel_size=2.0, dose_per_frame=3.0, voltage_kv=200.0)
MODEL = ModelRef(version="v0003", sha256="cd" * 32, weight=((0.01, 0.5), (0.1, 0.25), (0.16, 0.0)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory that EPU filled with one movie, its sidecar and the gain."""
    directory = tmp_path_factory.mktemp("microscope")
    plan = Plan(directory=directory / "grid1", scope=SCOPE, specimen=random_protein(1, 800), seed=2, truth=False)
    list(expose(plan))
    return directory


@pytest.fixture(scope="module")
def path(root):
    (found,) = root.rglob("*_fractions.tiff")
    return found


@pytest.fixture(scope="module")
def gain(root):
    return read_gain(root / "grid1" / "gain_reference.mrc")


def movie_of(path, root, **changes):
    acquisition = read_sidecar(path) or Acquisition()
    return Movie(
        **{
            "path": str(path),
            "relative": path.relative_to(root).as_posix(),
            "session": "grid1",
            "identity": identity_of(path),
            "evidence": "sidecar" if acquisition.n_frames else "unproven",
            "acquisition": acquisition,
        }
        | changes
    )


def configured(**tables):
    """Default settings with some values of some tables changed."""
    settings = DataPathSettings()
    changed = {name: msgspec.structs.replace(getattr(settings, name), **values) for name, values in tables.items()}
    return msgspec.structs.replace(settings, **changed)


@pytest.fixture(scope="module")
def done(root, path, gain, tmp_path_factory):
    """The movie, its record, and where the outputs are."""
    out = tmp_path_factory.mktemp("out") / "grid1"
    watch = Stopwatch(Times(detected="d"))
    groups = out.parent / "state" / "groups" / "movie.safetensors"
    record = process_movie(movie_of(path, root), job_of(out, gain, groups=groups), watch)
    return record, out


def output(record, role):
    (found,) = [f for f in record.outputs if f.role == role]
    return found


def image(done, role):
    record, out = done
    with mrcfile.open(out / output(record, role).path) as file:
        return np.array(file.data)


def labels(path):
    with mrcfile.open(path) as file:
        return " ".join(file.get_labels())


# ------------------------------------------------------------------------------------------------ what is written


def test_all_files_of_a_movie_are_there_and_nothing_else(done, path):
    record, out = done
    directory = out / "movies" / record.path / "r1"
    expected = {".mrc", "_EVN.mrc", "_ODD.mrc", "_denoised.mrc", ".star", ".json", "_PS.png"}
    expected |= {"_thumbnail.png", "_denoised_thumbnail.png"}
    assert {p.name for p in directory.iterdir()} == {path.stem + suffix for suffix in expected}
    assert record.path == "grid1/Images-Disc1/GridSquare_19770000/Data/" + path.name
    assert {f.role for f in record.outputs} == {
        "micrograph",
        "even",
        "odd",
        "denoised",
        "motion",
        "thumbnail",
        "denoised thumbnail",
        "power spectrum",
    }


def test_the_record_lists_what_is_on_disk(done):
    record, out = done
    for file in record.outputs:
        data = (out / file.path).read_bytes()
        assert file.sha256 == hashlib.sha256(data).hexdigest(), file.path
        assert file.bytes == len(data)
    written = [p for p in (out / "movies").rglob("*") if p.is_file()]
    assert len(written) == len(record.outputs) + 1  # and the record itself


def test_the_record_on_disk_is_the_one_returned(done):
    record, out = done
    (path,) = (out / "movies").rglob("*.json")
    assert jsontext.decode(path.read_bytes(), MovieRecord) == record
    assert jsontext.decode(jsontext.encode(record), MovieRecord) == record


def test_the_record_says_what_was_done(done, gain, path):
    record, _ = done
    assert (record.state, record.reason, record.revision, record.supersedes) == ("done", None, 1, None)
    assert (record.movie_id, record.session) == (hashlib.sha256(record.path.encode()).hexdigest()[:16], "grid1")
    assert record.flags == []
    assert (record.restoration, record.model) == ("wiener", None)
    source = record.source
    assert (source.n_frames, source.height, source.width, source.format) == (8, 256, 256, "tiff")
    assert (source.pixel_size, source.voltage_kv, source.dose_per_frame) == pytest.approx((2.0, 200.0, 3.0))
    assert (source.gain, source.evidence) == (gain.sha256, "sidecar")
    assert record.software.settings_sha256 == settings_sha256(DataPathSettings())
    assert (record.software.device, record.software.threads) == ("cpu", torch.get_num_threads())
    assert record.metrics.motion_trusted
    assert record.metrics.mean_counts == pytest.approx(12.0, rel=0.02)
    assert record.metrics.snr_half > 0.05
    assert set(record.times.stage_s) >= {"read", "gain", "align", "fuse", "split", "quality", "restore", "write"} - {
        "write"
    }
    assert record.times.detected == "d"


def test_the_halves_add_up_to_the_micrograph(done):
    plain, even, odd = (image(done, role) for role in ("micrograph", "even", "odd"))
    assert (plain.dtype, even.dtype) == (np.float32, np.float16)
    # half a unit in the last place of each half
    tolerance = float(np.spacing(np.float16(np.abs(even).max())))
    assert np.abs(even.astype(np.float32) + odd - plain).max() <= tolerance


def test_the_micrograph_is_the_weighted_sum_moved_by_the_shifts_in_the_record(done, root, path, gain):
    """By hand, from the frames as another program reads them: Σ w F/√Σ w² with the shifts that were published."""
    record, _ = done
    job = job_of(Path("unused"), gain)
    frames, _ = pipeline.read_movie(movie_of(path, root), job, Stopwatch())
    defects = {tuple(d) for d in frames.defects.tolist()}
    rows, columns = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None, :]
    rate = 0.5 / (0.8 * (0.245 * (np.hypot(rows, columns) / 2.0).clip(1e-12) ** -1.665 + 2.81))
    total, squares = np.zeros((256, 129), complex), np.zeros((256, 129))
    for index, (y, x) in enumerate(record.metrics.shifts_yx_px):
        frame = frames.counts[index] * gain.values
        for row, column in defects:
            frame[row, column] = np.median(frame)
        weight = np.exp(-3.0 * (index + 1) * rate)
        total += weight * np.fft.rfft2(frame) * np.exp(-2j * np.pi * (rows * y + columns * x))
        squares += weight**2
    expected = np.fft.irfft2(total / np.sqrt(squares), s=(256, 256))
    inside = (slice(24, -24), slice(24, -24))  # the edge is filled with the mean, not wrapped round
    found = image(done, "micrograph")
    assert np.corrcoef(found[inside].ravel(), expected[inside].ravel())[0, 1] > 0.999
    assert found[inside].std() == pytest.approx(expected[inside].std(), rel=0.01)


def test_only_derived_images_are_marked_as_not_for_reconstruction(done):
    record, out = done
    for file in record.outputs:
        marked = b"NOT FOR RECONSTRUCTION" in (out / file.path).read_bytes()
        assert marked == file.derived == file.not_for_reconstruction == file.role.startswith("denoised"), file.role
        if not file.path.endswith(".mrc"):
            continue
        assert (file.shape, file.pixel_size) == ([256, 256], pytest.approx(2.0))
    assert "Wiener estimate, no network" in labels(out / output(record, "denoised").path)
    assert "dose-weighted even frames" in labels(out / output(record, "even").path)


def test_the_motion_star_holds_the_shifts_of_the_record(done):
    record, out = done
    document = gemmi.cif.read_string((out / output(record, "motion").path).read_text())
    table = document.find_block("global_shift").find(["_rlnMicrographShiftX", "_rlnMicrographShiftY"])
    found = [[float(row[1]), float(row[0])] for row in table]
    np.testing.assert_allclose(found, record.metrics.shifts_yx_px, atol=1e-3)


def test_group_sums_are_kept_for_the_session_model(done):
    record, out = done
    movie_id, sums = read_groups(out.parent / "state" / "groups" / "movie.safetensors")
    assert movie_id == record.movie_id
    assert sums.groups.shape == (8, 256, 256)  # at 2 Å/px the whole band to 4 Å
    assert sums.exposures == tuple((3.0 * (i + 1),) for i in range(8))


def test_processing_twice_gives_the_same_bytes(done, root, path, gain, tmp_path):
    record, out = done
    again = process_movie(movie_of(path, root), job_of(tmp_path / "grid1", gain), Stopwatch())
    assert again.outputs == record.outputs
    for file in record.outputs:
        assert (out / file.path).read_bytes() == (tmp_path / "grid1" / file.path).read_bytes()
    first, second = (msgspec.to_builtins(r) for r in (record, again))
    for plain in (first, second):
        del plain["times"]
    assert first == second


def test_a_new_revision_stands_beside_the_old_one(root, path, gain, tmp_path):
    record = process_movie(movie_of(path, root, revision=2), job_of(tmp_path, gain), Stopwatch())
    assert (record.revision, record.supersedes) == (2, 1)
    assert all("/r2/" in file.path for file in record.outputs)


def test_whoever_waits_is_told_of_each_stage(root, path, gain, tmp_path):
    told = []
    process_movie(movie_of(path, root), job_of(tmp_path, gain), Stopwatch(notify=told.append))
    assert told == [
        "read",
        "gain",
        "align",
        "fuse",
        "split",
        "quality",
        "ctf",
        "restore",
        "super_resolve",
        "figures",
        "write",
    ]


# ------------------------------------------------------------------------------------------------------- settings


def test_float32_for_programs_that_know_no_float16(root, path, gain, tmp_path):
    settings = configured(outputs={"dtype": "float32"})
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, settings=settings), Stopwatch())
    assert {file.dtype for file in record.outputs if file.dtype} == {"float32"}
    plain, even, odd = (image((record, tmp_path), role) for role in ("micrograph", "even", "odd"))
    np.testing.assert_allclose(even + odd, plain, atol=1e-4)


def test_a_super_resolved_image_is_written_when_asked_for(root, path, gain, tmp_path):
    settings = configured(outputs={"super_resolution": "always", "keep_groups": True})
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, settings=settings), Stopwatch())
    fine = output(record, "super-resolution")
    assert (fine.shape, fine.pixel_size, fine.derived) == ([512, 512], 1.0, True)
    assert "NOT FOR RECONSTRUCTION" in labels(tmp_path / fine.path)
    assert output(record, "super-resolution thumbnail").path.endswith("_SR_thumbnail.png")
    assert read_groups(tmp_path / output(record, "groups").path)[0] == record.movie_id
    assert record.metrics.sr.diversity is not None


class Gains:
    """A network on top of fusion that doubles everything, or fails."""

    reference = ModelRef(version="v0007", sha256="0" * 64)
    trained_on = ("seen",)

    def __init__(self, error=None):
        self.error = error

    def __call__(self, fused, grid, exposures, prior, white):
        if self.error:
            raise self.error
        return fused


class Averaged:
    """cryo-ZSSR that only interpolates."""

    reference = None
    trained_on = ("seen",)

    def __call__(self, averages):
        return lambda part: part.whole.repeat_interleave(2, 0).repeat_interleave(2, 1)


def super_resolved(root, path, gain, directory, chosen, **job):
    settings = configured(outputs={"super_resolution": "always"}, super_resolution=chosen)
    record = process_movie(movie_of(path, root), job_of(directory, gain, settings=settings, **job), Stopwatch())
    return record, image((record, directory), "super-resolution")


def test_a_network_changes_the_fused_image_and_is_named(root, path, gain, tmp_path):
    plain, before = super_resolved(root, path, gain, tmp_path / "a", {})
    record, after = super_resolved(root, path, gain, tmp_path / "b", {}, network=Gains())
    assert (plain.metrics.sr.method, plain.metrics.sr.model) == ("fusion", None)
    assert (record.metrics.sr.method, record.metrics.sr.model.version) == ("network", "v0007")
    before, after = (one.astype(np.float64) - one.mean() for one in (before, after))
    np.testing.assert_allclose(after, 2.0 * before, atol=0.02 * np.abs(before).max())
    assert "model v0007" in labels(tmp_path / "b" / output(record, "super-resolution").path)


def test_a_network_that_learned_from_the_movie_is_not_judged_by_it(root, path, gain, tmp_path):
    plain, _ = super_resolved(root, path, gain, tmp_path / "a", {})
    record, made = super_resolved(root, path, gain, tmp_path / "b", {}, network=Gains(), movie_id="seen")
    told = "super-resolution: the network was trained on this movie; its figures are not independent"
    assert told in record.flags
    assert record.metrics.sr.method == "network"
    # what is said is said of the fused image; what is written is the network's
    assert record.metrics.sr.confirmed == plain.metrics.sr.confirmed
    unseen, same = super_resolved(root, path, gain, tmp_path / "c", {}, network=Gains())
    assert told not in unseen.flags
    np.testing.assert_array_equal(made, same)
    zssr, _ = super_resolved(root, path, gain, tmp_path / "d", {"method": "zssr"}, zssr=Averaged(), movie_id="seen")
    assert told in zssr.flags


def test_a_network_that_fails_leaves_the_fused_image_and_a_flag(root, path, gain, tmp_path):
    _, before = super_resolved(root, path, gain, tmp_path / "a", {})
    failing = Gains(ModelError("it has no weights"))
    record, after = super_resolved(root, path, gain, tmp_path / "b", {}, network=failing)
    assert "super-resolution: it has no weights; fused without a network" in record.flags
    assert record.metrics.sr.method == "fusion"
    np.testing.assert_array_equal(before, after)


def test_cryo_zssr_makes_the_image_where_it_is_asked_for(root, path, gain, tmp_path):
    record, made = super_resolved(root, path, gain, tmp_path, {"method": "zssr"}, zssr=Averaged())
    assert record.metrics.sr.method == "zssr"
    assert record.metrics.sr.frc_beyond_nyquist is None
    assert made.shape == (512, 512)
    np.testing.assert_array_equal(made[0::2, 0::2], made[1::2, 1::2])
    assert "cryo-ZSSR" in labels(tmp_path / output(record, "super-resolution").path)


def test_until_a_cryo_zssr_serves_the_movie_is_fused_and_learned_from(root, path, gain, tmp_path):
    example = tmp_path / "m.safetensors"
    record, _ = super_resolved(root, path, gain, tmp_path, {"method": "zssr"}, training_data=example)
    assert record.metrics.sr.method == "fusion"
    assert "super-resolution: no cryo-ZSSR of this session serves yet; fused instead" in record.flags
    movie_id, averages, pixel_size = read_averages(example)
    assert (movie_id, pixel_size, averages.early.shape) == (record.movie_id, record.source.pixel_size, (256, 256))


def test_an_unfiltered_image_has_white_noise_and_may_be_reconstructed_from(root, path, gain, tmp_path):
    record, made = super_resolved(root, path, gain, tmp_path, {"filtered": False})
    assert "NOT FOR RECONSTRUCTION" not in labels(tmp_path / output(record, "super-resolution").path)
    power = np.abs(np.fft.rfft2(made.astype(np.float64))) ** 2
    radius = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    # further out the strong coarse signal's alias is left: this short movie hardly moves
    rings = [power[(radius > low) & (radius < low + 0.04)].mean() for low in (0.16, 0.22, 0.28, 0.34)]
    assert max(rings) < 2.0 * min(rings)


def test_what_a_network_learns_from_is_written_where_it_is_wanted(root, path, gain, tmp_path):
    settings = configured(outputs={"super_resolution": "always"})
    example = tmp_path / "lessons" / "m.safetensors"
    example.parent.mkdir()
    job = job_of(tmp_path, gain, settings=settings, training_data=example)
    record = process_movie(movie_of(path, root), job, Stopwatch())
    movie_id, found = read_training_data(example)
    assert movie_id == record.movie_id
    assert len(found.groups) == 8
    assert found.pixel_size == record.source.pixel_size


def test_the_finer_grid_changes_nothing_else(done, root, path, gain, tmp_path):
    record, _ = done
    settings = configured(outputs={"super_resolution": "always"})
    fine = process_movie(movie_of(path, root), job_of(tmp_path / "fine", gain, settings=settings), Stopwatch())
    settings = configured(outputs={"super_resolution": "never"})
    coarse = process_movie(movie_of(path, root), job_of(tmp_path / "coarse", gain, settings=settings), Stopwatch())
    assert coarse.metrics.sr.verdict == "not tried"
    assert coarse.metrics.shifts_yx_px == fine.metrics.shifts_yx_px == record.metrics.shifts_yx_px
    one, two = (image((r, tmp_path / d), "micrograph") for r, d in ((fine, "fine"), (coarse, "coarse")))
    np.testing.assert_array_equal(one, two)


def test_where_the_halves_share_nothing_near_nyquist_the_finer_grid_is_not_tried(root, path, gain, tmp_path):
    directory = tmp_path
    job = job_of(directory, gain, settings=configured(super_resolution={"min_diversity": 0.1}))
    record = process_movie(movie_of(path, root), job, Stopwatch())
    assert record.metrics.sr.verdict == "not shown"
    assert "between 0.8 and 1 times the physical Nyquist frequency" in record.metrics.sr.reason
    assert not list(directory.rglob("*_SR*"))


def test_a_super_resolution_movie_is_not_refined_further(root, path, gain, tmp_path):
    told = replace(read_sidecar(path), super_res_factor=2)
    record = process_movie(movie_of(path, root, acquisition=told), job_of(tmp_path, gain), Stopwatch())
    assert record.metrics.sr.verdict == "cannot help"
    assert "super-resolution already" in record.metrics.sr.reason


# ------------------------------------------------------------------------------------------------------ the network


def proposal(sums, spectrum):
    """A network that says: nothing at all; believed by half."""
    nothing = torch.zeros_like(sums.total)
    weight = torch.full_like(spectrum.fftfreq, 0.5)
    return Correction(total=nothing, even=nothing, odd=nothing, weight=weight, model=MODEL)


def test_a_model_that_served_is_named(done, root, path, gain, tmp_path):
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, proposal), Stopwatch())
    assert (record.restoration, record.model) == ("network", MODEL)
    text = labels(tmp_path / output(record, "denoised").path)
    assert "corrected by model v0003" in text
    assert "cd" * 32 in text
    assert "lambda by band 0.50 0.25 0.00" in text
    assert re.search(r"changed between \d+ and [\d.]+ A, Wiener beyond", text)
    assert "NOT FOR RECONSTRUCTION" in text
    half = image((record, tmp_path), "denoised").astype(np.float32)
    np.testing.assert_allclose(half, 0.5 * image(done, "denoised").astype(np.float32), atol=0.02)


def test_no_network_touches_the_plain_images(done, root, path, gain, tmp_path):
    plain, _ = done
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, proposal), Stopwatch())
    for role in ("micrograph", "even", "odd", "motion", "thumbnail", "power spectrum"):
        assert output(record, role) == output(plain, role)
    assert output(record, "denoised").sha256 != output(plain, "denoised").sha256


def test_what_the_model_cannot_do_is_flagged_and_wiener_serves(done, root, path, gain, tmp_path):
    def refuse(sums, spectrum):
        raise ModelError("the model was trained at another pixel size", expected="1", found="2")

    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, refuse), Stopwatch())
    assert record.flags == ["model: the model was trained at another pixel size"]
    assert (record.restoration, record.model) == ("wiener", None)
    assert record.outputs == done[0].outputs


def test_a_movie_that_the_guard_refuses_is_served_the_wiener_estimate_and_told_why(done, root, path, gain, tmp_path):
    def refused(sums, spectrum):
        found = proposal(sums, spectrum)
        return replace(found, weight=torch.zeros_like(found.weight), refused="no better than the Wiener filter")

    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, refused), Stopwatch())
    assert record.flags == ["model: not applied, no better than the Wiener filter"]
    assert (record.restoration, record.model) == ("wiener", None)
    assert record.metrics.snbr_half_denoised is None
    assert record.outputs == done[0].outputs


def test_where_the_gain_does_not_fit_the_network_is_not_asked(root, path, gain, tmp_path):
    """Halves agree on the detector's pattern: no figure of theirs can judge a network."""
    asked = []

    def never(sums, spectrum):
        asked.append(True)
        return proposal(sums, spectrum)

    upside_down = replace(gain, values=gain.values[::-1].copy())
    record = process_movie(movie_of(path, root), job_of(tmp_path, upside_down, never), Stopwatch())
    assert not asked
    assert any("residual fixed pattern correlates the half sums" in flag for flag in record.flags)
    assert (record.restoration, record.model) == ("wiener", None)


# --------------------------------------------------------------------------------------------- movies of other kinds


def stored(directory, counts, name="a.mrc", pixel_size=2.0):
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(encode(counts, "mrc" if name.endswith("mrc") else "tiff", pixel_size))
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).poisson(3.0, shape).astype(np.uint8)


def test_a_blank_movie_is_left_alone_and_says_so(tmp_path):
    path = stored(tmp_path / "in", noise(8, 200, 220))
    record = process_movie(movie_of(path, tmp_path / "in"), job_of(tmp_path / "out", propose=proposal), Stopwatch())
    assert record.restoration == "none"
    assert record.model is None
    assert not record.metrics.motion_trusted
    assert record.metrics.shifts_yx_px == [[0.0, 0.0]] * 8
    assert record.metrics.total_motion_angstrom is None
    done = record, tmp_path / "out"
    np.testing.assert_array_equal(image(done, "denoised"), image(done, "micrograph").astype(np.float16))
    assert "no significant signal" in labels(tmp_path / "out" / output(record, "denoised").path)
    assert record.flags == [
        "dose: unknown, frames are not weighted",
        "voltage: unknown, 300 kV assumed for the exposure filter; left out of micrographs.star",
        "gain: none",
        "frame count: unproven",
        "motion: too little information",
    ]
    assert "unweighted" in labels(tmp_path / "out" / output(record, "micrograph").path)
    # unweighted: Σ F/√t
    expected = path.read_bytes()[1024:]
    counts = np.frombuffer(expected, np.int8).reshape(8, 200, 220)
    np.testing.assert_allclose(image(done, "micrograph"), counts.sum(0) / 8**0.5, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 90, 96), (2, 91, 97), (3, 96, 91), (5, 64, 128)])
def test_few_frames_and_odd_sizes(tmp_path, shape):
    path = stored(tmp_path / "in", noise(*shape))
    groups = tmp_path / "groups.safetensors"
    settings = configured(outputs={"super_resolution": "always"})
    job = job_of(tmp_path / "out", settings=settings, groups=groups)
    record = process_movie(movie_of(path, tmp_path / "in"), job, Stopwatch())
    assert output(record, "micrograph").shape == list(shape[1:])
    assert output(record, "super-resolution").shape == [2 * shape[1], 2 * shape[2]]
    assert groups.exists() == (shape[0] >= 4)
    plain, even, odd = (image((record, tmp_path / "out"), r).astype(float) for r in ("micrograph", "even", "odd"))
    assert np.abs(even + odd - plain).max() < 0.02


def test_rows_keep_their_order_and_columns_theirs(tmp_path):
    counts = noise(4, 64, 80)
    counts[:, 5, 60:64] = 100
    record = process_movie(
        movie_of(stored(tmp_path / "in", counts), tmp_path / "in"),
        job_of(tmp_path / "out", settings=configured(gain={"hot_pixel_sigma": 1000.0})),
        Stopwatch(),
    )
    plain = image((record, tmp_path / "out"), "micrograph")
    assert plain.argmax() in range(5 * 80 + 60, 5 * 80 + 64)


def test_hot_pixels_are_found_replaced_and_told(tmp_path):
    counts = noise(8, 128, 120)
    counts[:, 20, 30] = 90
    counts[:, 100, 7] = 60
    record = process_movie(
        movie_of(stored(tmp_path / "in", counts), tmp_path / "in"), job_of(tmp_path / "out"), Stopwatch()
    )
    assert record.metrics.n_hot_pixels == 2
    plain = image((record, tmp_path / "out"), "micrograph")
    assert abs(plain[20, 30] - plain.mean()) < 6 * plain.std()
    text = (tmp_path / "out" / output(record, "motion").path).read_text()
    assert "30" in text.split("hot_pixels")[1]


# ------------------------------------------------------------------------------------------------------------ errors


def nothing_written(directory):
    return not directory.exists() or not [p for p in directory.rglob("*") if p.is_file()]


def test_a_gain_of_another_size_is_a_mismatch(root, path, tmp_path):
    wrong = Gain(path="/data/gain.mrc", sha256="0" * 64, values=np.ones((256, 255), np.float32))
    says = r"differ in size.*expected 256 × 256 px; found 256 × 255 px in .*gain\.mrc"
    with pytest.raises(MovieMismatch, match=says):
        process_movie(movie_of(path, root), job_of(tmp_path, wrong), Stopwatch())
    assert nothing_written(tmp_path)


def test_an_unknown_pixel_size_is_a_mismatch(root, path, gain, tmp_path):
    with pytest.raises(MovieMismatch, match="pixel size is unknown"):
        process_movie(movie_of(path, root, acquisition=Acquisition()), job_of(tmp_path, gain), Stopwatch())
    assert nothing_written(tmp_path)


def test_a_movie_without_counts_is_corrupt(tmp_path):
    path = stored(tmp_path / "in", np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(MovieCorrupt, match="no counts"):
        process_movie(movie_of(path, tmp_path / "in"), job_of(tmp_path / "out"), Stopwatch())
    assert nothing_written(tmp_path / "out")


def test_a_movie_that_changes_meanwhile_is_not_ready(tmp_path):
    path = stored(tmp_path / "in", noise(4, 48, 48))
    movie, job = movie_of(path, tmp_path / "in"), job_of(tmp_path / "out")
    frames, source = pipeline.read_movie(movie, job, Stopwatch())
    micrograph = pipeline.compute_micrograph(frames, source, job, Stopwatch())
    os.utime(path, ns=(1, 1))
    with pytest.raises(MovieNotReady, match="changed while it was being processed"):
        pipeline.write_micrograph(movie, micrograph, job, Stopwatch())
    assert nothing_written(tmp_path / "out")


def test_a_larger_movie_than_allowed_is_refused(root, path, gain, tmp_path):
    settings = configured(compute={"read_limit_gib": 1e-6})
    with pytest.raises(pipeline.movie_reader.MovieUnsupported, match="decodes to more than is allowed"):
        process_movie(movie_of(path, root), job_of(tmp_path, gain, settings=settings), Stopwatch())


@pytest.mark.parametrize("fails_at", [1, 2, 5, 10])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_no_part_of_a_file(root, path, gain, tmp_path, monkeypatch, fails_at, step):
    """Whole files may be there; the record, which comes last, is not."""
    original, calls = getattr(os, step), []

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **options)

    monkeypatch.setattr(f"streamer.writers.atomic.os.{step}", fail)
    groups = tmp_path / "state" / "groups.safetensors"
    with pytest.raises(OutputError, match="ENOSPC"):
        process_movie(movie_of(path, root), job_of(tmp_path / "out", gain, groups=groups), Stopwatch())
    monkeypatch.undo()
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p for p in left if ".tmp-" in p.name]
    assert not [p for p in left if p.suffix == ".json"]
    for file in left:
        if file.suffix == ".mrc":
            assert mrcfile.validate(file), file
    # and the next attempt makes everything whole
    record = process_movie(movie_of(path, root), job_of(tmp_path / "out", gain, groups=groups), Stopwatch())
    for file in record.outputs:
        assert hashlib.sha256((tmp_path / "out" / file.path).read_bytes()).hexdigest() == file.sha256


def test_sums_that_are_not_numbers_stop_the_movie(monkeypatch, tmp_path):
    half_sums = halves.half_sums

    def broken(*arguments):
        sums = half_sums(*arguments)
        return replace(sums, even=torch.full_like(sums.even, torch.nan))

    monkeypatch.setattr(halves, "half_sums", broken)
    path = stored(tmp_path / "in", noise(4, 48, 48))
    with pytest.raises(StageError, match="not finite"):
        process_movie(movie_of(path, tmp_path / "in"), job_of(tmp_path / "out"), Stopwatch())
    assert nothing_written(tmp_path / "out")


def test_counts_beyond_float16_are_kept_in_float32_and_flagged(tmp_path):
    """An integrating camera: 40,000 units per px do not fit into the halves."""
    counts = np.random.default_rng(0).normal(40_000, 200, (16, 48, 48)).astype(np.float32)
    path = tmp_path / "in" / "a.mrc"
    path.parent.mkdir()
    with mrcfile.new(path) as file:
        file.set_data(counts)
        file.voxel_size = 2.0
    movie = movie_of(path, tmp_path / "in")
    record = process_movie(movie, job_of(tmp_path / "out"), Stopwatch())
    assert record.metrics.mean_counts == pytest.approx(40_000, rel=1e-3)
    assert "outputs: even as float32, its values do not fit float16" in record.flags
    assert output(record, "even").dtype == "float32"
    plain, even, odd = (image((record, tmp_path / "out"), role) for role in ("micrograph", "even", "odd"))
    np.testing.assert_allclose(even + odd, plain, rtol=1e-5)
    settings = configured(outputs={"dtype": "float32"})
    assert not [
        f for f in process_movie(movie, job_of(tmp_path / "o", settings=settings), Stopwatch()).flags if "float" in f
    ]


def test_frames_around_zero_are_no_defects(tmp_path):
    """Background-subtracted frames of an integrating camera: nothing is counted, nothing scales like counts."""
    counts = np.random.default_rng(0).normal(0.0, 5.0, (8, 64, 64)).astype(np.float32)
    counts[:, 10, 20] += 200.0
    path = tmp_path / "in" / "a.mrc"
    path.parent.mkdir()
    with mrcfile.new(path) as file:
        file.set_data(counts)
        file.voxel_size = 2.0
    record = process_movie(movie_of(path, tmp_path / "in"), job_of(tmp_path / "out"), Stopwatch())
    assert record.metrics.n_hot_pixels == 1


def test_a_movie_that_is_overwritten_before_its_turn_is_not_ready_and_not_corrupt(tmp_path):
    path = stored(tmp_path / "in", noise(4, 48, 48))
    movie, job = movie_of(path, tmp_path / "in"), job_of(tmp_path / "out")
    path.write_bytes(bytes(100) + path.read_bytes()[100:])
    with pytest.raises(MovieNotReady, match="changed since it was found"):
        pipeline.read_movie(movie, job, Stopwatch())
    with pytest.raises((MovieCorrupt, MovieUnsupported)):
        pipeline.read_movie(movie_of(path, tmp_path / "in"), job, Stopwatch())


def test_a_new_owner_mode_or_name_is_the_same_movie(tmp_path):
    """What a chmod, a link or a remount changes of a file between its arrival and its turn."""
    path = stored(tmp_path / "in", noise(4, 48, 48))
    movie = movie_of(path, tmp_path / "in")
    path.chmod(0o600)
    (tmp_path / "link").hardlink_to(path)
    assert movie_of(path, tmp_path / "in").identity != movie.identity
    remounted = replace(movie, identity=replace(movie.identity, device=movie.identity.device + 1))
    for known in (movie, remounted):
        assert process_movie(known, job_of(tmp_path / "out"), Stopwatch()).state == "done"
    os.utime(path, ns=(1, 1))
    with pytest.raises(MovieNotReady, match="changed since it was found"):
        process_movie(movie, job_of(tmp_path / "out"), Stopwatch())


def test_a_long_exposure_before_the_movie_changes_nothing_in_it(tmp_path):
    """Late in a tilt series: what came before weakens all frames alike, and cancels."""
    path, records = stored(tmp_path / "in", noise(6, 48, 48)), []
    for before in (0.0, 400.0):
        settings = configured(movie={"pixel_size": 1.0, "dose_per_frame": 1.0, "pre_exposure": before})
        out = tmp_path / str(before)
        records.append(
            (process_movie(movie_of(path, tmp_path / "in"), job_of(out, settings=settings), Stopwatch()), out)
        )
    np.testing.assert_array_equal(*(image(done, "micrograph") for done in records))
    assert [record.source.pre_exposure for record, _ in records] == [0.0, 400.0]
    assert "400.0" in (records[1][1] / output(records[1][0], "motion").path).read_text()


def test_frames_smaller_than_any_cameras_are_refused_by_name(tmp_path):
    path = stored(tmp_path / "in", noise(4, 1, 1))
    with pytest.raises(
        MovieMismatch, match="has smaller frames than any camera; expected at least 16 × 16 px; found 1 × 1"
    ):
        process_movie(movie_of(path, tmp_path / "in"), job_of(tmp_path / "out"), Stopwatch())


# --------------------------------------------------------------------------------------------- what the record hashes


def test_the_settings_hash_is_of_what_changes_a_result():
    default = settings_sha256(DataPathSettings())
    assert settings_sha256(configured(outputs={"root": "/elsewhere", "keep_groups": True})) == default
    for changed in (
        configured(motion={"b_factor": 100.0}),
        configured(movie={"pixel_size": 1.0}),
        configured(outputs={"dtype": "float32"}),
        configured(denoise={"resolution": 5.0}),
    ):
        assert settings_sha256(changed) != default
    assert OutputSettings().dtype == "float16"


def test_quality_is_measured_on_what_is_written(done):
    """The FRC in the record is that of the even and odd files."""
    record, _ = done
    even, odd = (torch.from_numpy(image(done, role).astype(np.float32)) for role in ("even", "odd"))
    spectra = [estimators.tapered(torch.fft.rfft2(half), (256, 256)) for half in (even, odd)]
    frc = estimators.frc(*spectra, (256, 256))
    counts = fourier.coefficient_counts((256, 256))
    pooled = [
        float((frc[i] * counts[i]).sum() / counts[i].sum())
        for i in (torch.arange(129) * 64 // 129 == step for step in range(64))
    ]
    # float16 of the halves adds noise of a few 1e-4
    np.testing.assert_allclose(record.metrics.frc, pooled, atol=5e-3)
    assert json.loads(jsontext.encode(record))["metrics"]["frc"] == record.metrics.frc


# ------------------------------------------------------------------------------------------- gain, EER, streaming


def test_a_gain_that_lies_the_wrong_way_is_told_with_the_setting_that_is_right(root, path, gain, tmp_path):
    turned = replace(gain, values=gain.values[::-1].copy())
    record = process_movie(movie_of(path, root), job_of(tmp_path / "a", turned), Stopwatch())
    (flag,) = [flag for flag in record.flags if flag.startswith("gain:")]
    assert "gain.rotate = 0 and gain.flip = 1" in flag
    assert record.metrics.residual_gain == pytest.approx(1.0, abs=0.2)
    settings = configured(gain={"flip": 1})
    record = process_movie(movie_of(path, root), job_of(tmp_path / "b", turned, settings=settings), Stopwatch())
    assert not [flag for flag in record.flags if flag.startswith("gain:")]
    assert abs(record.metrics.residual_gain) < 4 * record.metrics.residual_gain_error


def test_listed_defects_are_replaced(root, path, gain, tmp_path):
    listed = tmp_path / "defects.txt"
    listed.write_text("0 100 256 2\n")
    settings = configured(gain={"defects": str(listed)})
    frames, _ = pipeline.read_movie(movie_of(path, root), job_of(tmp_path, gain, settings=settings), Stopwatch())
    there = {(int(y), int(x)) for y, x in frames.defects}
    assert {(y, x) for y in (100, 101) for x in range(256)} <= there


def test_the_result_does_not_depend_on_what_is_held_in_memory(root, path, gain, tmp_path):
    images = []
    for name, limit in (("held", 2.0), ("streamed", 0.0)):
        settings = configured(compute={"frames_in_memory_gib": limit})
        record = process_movie(movie_of(path, root), job_of(tmp_path / name, gain, settings=settings), Stopwatch())
        images.append([output.sha256 for output in record.outputs if output.role == "micrograph"])
    assert images[0] == images[1]


@pytest.fixture(scope="module")
def eer(tmp_path_factory):
    """An EER movie as EPU leaves it, its gain beside it."""
    directory = tmp_path_factory.mktemp("falcon")
    plan = Plan(directory=directory / "grid1", scope=SCOPE, specimen=random_protein(1, 800), seed=2, format="eer")
    (exposure,) = expose(plan)
    (found,) = directory.rglob("*.gain")
    return directory, exposure.path, read_gain(found)


def test_an_eer_movie_goes_the_whole_way(eer, tmp_path):
    root, path, gain = eer
    settings = configured(eer={"group": 20})
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, settings=settings), Stopwatch())
    assert list(record.flags) == []
    assert (record.source.format, record.source.n_frames, record.source.n_raw_frames) == ("eer", 8, 160)
    assert record.source.dose_per_frame == pytest.approx(3.0)
    assert abs(record.metrics.residual_gain) < 0.1
    assert record.metrics.motion_trusted


def test_an_eer_movie_on_a_finer_grid_is_not_refined_further(eer, tmp_path):
    root, path, gain = eer
    settings = configured(eer={"group": 40, "upsampling": 2})
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, settings=settings), Stopwatch())
    assert (record.source.height, record.source.upsampling, record.source.pixel_size) == (512, 2, 1.0)
    assert record.metrics.sr.verdict == "cannot help"
    assert "finer grid already" in record.metrics.sr.reason


def test_fractions_of_different_doses_are_weighted_by_their_own(eer, tmp_path, monkeypatch):
    root, path, gain = eer
    plan = tmp_path / "integration.txt"
    plan.write_text("40 10 0.05\n120 40 0.05\n")
    seen = []
    genuine = frame_sum.sum_frames
    monkeypatch.setattr(frame_sum, "sum_frames", lambda *a, **k: (seen.append(a[2]), genuine(*a, **k))[1])
    settings = configured(eer={"integration": str(plan)}, outputs={"super_resolution": "never"})
    movie = movie_of(path, root, acquisition=Acquisition())
    record = process_movie(movie, job_of(tmp_path / "out", gain, settings=settings), Stopwatch())
    assert record.source.frame_doses == pytest.approx((0.5,) * 4 + (2.0,) * 3)
    np.testing.assert_allclose(seen[0], [0.5, 1.0, 1.5, 2.0, 4.0, 6.0, 8.0])


def test_an_empty_movie_is_marked_beside_the_usual_ones_and_its_pixels_are_the_same(tmp_path):
    """Ice without particles: by itself nothing is said about it; its files are the same either way."""
    plan = Plan(directory=tmp_path / "in" / "grid1", scope=SCOPE, specimen=None, seed=4, truth=False)
    (exposure,) = expose(plan)
    movie = movie_of(exposure.path, tmp_path / "in")
    usual = Usual(structure=20.0, ssnr_full=0.5, electrons=96.0)
    alone, beside, crowded = (
        process_movie(movie, job_of(tmp_path / name, usual=given), Stopwatch())
        for name, given in (("alone", None), ("beside", usual), ("weak", Usual(structure=1.0, ssnr_full=0.001)))
    )
    assert alone.metrics.structure == beside.metrics.structure < 1.4
    assert alone.metrics.empty is None
    assert crowded.metrics.empty is None
    assert "no particle stands out" in beside.metrics.empty
    assert f"specimen: nothing to see here: {beside.metrics.empty}" in beside.flags
    assert not any(flag.startswith("specimen:") for flag in [*alone.flags, *crowded.flags])
    assert [output.sha256 for output in alone.outputs if output.path.endswith(".mrc")] == [
        output.sha256 for output in beside.outputs if output.path.endswith(".mrc")
    ]


def test_a_movie_with_particles_is_not_empty_beside_others(path, root, gain, tmp_path):
    usual = Usual(structure=20.0, ssnr_full=0.5, electrons=96.0)
    record = process_movie(movie_of(path, root), job_of(tmp_path, gain, usual=usual), Stopwatch())
    assert record.metrics.empty is None
    assert not any(flag.startswith("specimen:") for flag in record.flags)
