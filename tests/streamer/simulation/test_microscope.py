import struct
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from streamer.errors import MovieCorrupt, MovieNotReady, StreamerError
from streamer.metadata.sidecars import read_sidecar, session_of
from streamer.readers import movie
from streamer.readers.gain import gain_candidates, read_gain
from streamer.runtime.clock import SYSTEM
from streamer.settings import EerSettings
from streamer.simulation.microscope import RAW_FRAMES, Plan, expose
from streamer.simulation.movie import Detector, Field, Microscope
from streamer.simulation.specimen import random_protein
from tests.clocks import SetClock

SCOPE = Microscope(shape=(64, 80), n_frames=6, pixel_size=1.37, dose_per_frame=2.5, voltage_kv=200.0)


def plan(directory, **changes):
    return Plan(**{"directory": directory, "scope": SCOPE, "write_s": 1.6} | changes)


def one(directory, clock=SYSTEM, **changes):
    (exposure,) = expose(plan(directory, **changes), clock=clock)
    return exposure.path


def counts_of(seed=0, number=0):
    camera_, field = Detector(SCOPE.shape, seed), Field(SCOPE, None, seed=seed * 100_003 + number)
    return np.stack(list(field.frames(camera_)))


def read(path):
    return movie.read_counts(path, movie.read_header(path), in_memory_bytes=1 << 30, threads=1)


def files(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------------ names, sidecars


@pytest.mark.parametrize("kind", ["mrc", "tiff"])
@pytest.mark.parametrize("layout", ["epu", "serialem"])
def test_the_frames_that_were_counted_are_read(tmp_path, layout, kind):
    path = one(tmp_path, layout=layout, format=kind)
    np.testing.assert_array_equal(read(path), counts_of())
    assert movie.read_header(path).pixel_size == (pytest.approx(1.37) if kind == "mrc" else None)


def test_epu_names_its_directories_and_files(tmp_path):
    paths = [e.path for e in expose(plan(tmp_path / "grid1", movies=3, first=2, per_square=2))]
    relative = [p.relative_to(tmp_path).as_posix() for p in paths]
    assert [r.split("/")[:4] for r in relative] == [
        ["grid1", "Images-Disc1", "GridSquare_19770013", "Data"],
        ["grid1", "Images-Disc1", "GridSquare_19770013", "Data"],
        ["grid1", "Images-Disc1", "GridSquare_19770026", "Data"],
    ]
    assert paths[0].name == "FoilHole_19780014_Data_19771000_19771002_20260105_090122_fractions.tiff"
    assert [session_of(r, "root") for r in relative] == ["grid1"] * 3


def test_serialem_names_its_files(tmp_path):
    path = one(tmp_path, layout="serialem", first=7)
    assert path == tmp_path / "session_0007_X+1Y+0-1_Jan05_09.04.47.tif"


@pytest.mark.parametrize("layout", ["epu", "serialem"])
def test_what_the_sidecar_says_is_what_went_in(tmp_path, layout):
    scope = replace(SCOPE, defocus_um=(1.25, 1.25), astigmatism_um=0.0)
    told = read_sidecar(one(tmp_path, layout=layout, scope=scope, first=4))
    assert told.n_frames == 6
    assert told.pixel_size == pytest.approx(1.37)
    assert told.voltage_kv == 200.0
    assert told.dose_total == pytest.approx(15.0)
    assert told.dose_per_frame == pytest.approx(2.5)
    assert told.defocus_target_um == pytest.approx(1.25)
    assert told.magnification == 64000
    assert told.super_res_factor == 1
    assert told.acquired is not None
    if layout == "epu":
        assert (told.grid_square, told.foil_hole, told.template) == ("19770000", "19780028", "19771000")
        assert (told.stage_x_um, told.stage_y_um, told.stage_z_um) == pytest.approx((4.0, 0.0, 0.0))
        assert told.beam_shift_x == pytest.approx(0.01)
    else:
        assert told.gain_reference == "CountRef_session.mrc"
        assert (told.stage_x_um, told.stage_y_um) == (4.0, 0.0)


@pytest.mark.parametrize(("layout", "name"), [("epu", "gain_reference.mrc"), ("serialem", "CountRef_session.mrc")])
def test_the_gain_is_the_only_candidate_and_the_cameras(tmp_path, layout, name):
    one(tmp_path, layout=layout, seed=3)
    (path,) = gain_candidates(tmp_path)
    assert path.name == name
    np.testing.assert_array_equal(read_gain(path).values, Detector(SCOPE.shape, 3).gain_reference())


def test_the_truth_lies_beside_the_movie(tmp_path):
    specimen = random_protein(0, 200)
    path = one(tmp_path, specimen=specimen)
    truth, expected = np.load(path.with_name(f"{path.stem}_truth.npz")), Field(SCOPE, specimen, seed=0).truth()
    np.testing.assert_array_equal(truth["displacement"], expected.displacement)
    np.testing.assert_array_equal(truth["particles"], expected.particles)
    np.testing.assert_allclose(truth["image"], expected.image, atol=1e-3)
    assert float(truth["diameter"]) == pytest.approx(specimen.diameter)
    assert float(truth["defocus_u_um"]) == pytest.approx(expected.optics.defocus_u_um)
    assert not list(tmp_path.glob("*.npz"))
    assert not list((tmp_path / "bare").rglob("*.npz")) if one(tmp_path / "bare", truth=False) else None


def timeless(content):
    """Files without what tells when they were made: the labels of an MRC header, and all of a zip archive."""
    kept = {name: data for name, data in content.items() if not name.endswith(".npz")}
    return {name: data[:220] + data[1024:] if name.endswith(".mrc") else data for name, data in kept.items()}


def test_a_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(expose(plan(tmp_path / name, movies=2, seed=seed)))
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert timeless(first) == timeless(again)
    assert first.keys() == other.keys()
    assert all(first[k] != other[k] for k in first if k.endswith((".tiff", "gain_reference.mrc")))


def test_numbers_make_the_noise(tmp_path):
    both = [read(e.path) for e in expose(plan(tmp_path, movies=2))]
    np.testing.assert_array_equal(both[1], counts_of(number=1))
    assert not np.array_equal(both[0], both[1])


def test_stop_is_asked_before_each_movie(tmp_path):
    answers = iter([False, False, True])
    assert len(list(expose(plan(tmp_path, movies=9), stop=lambda: next(answers)))) == 2


def test_movies_come_no_faster_than_asked(tmp_path):
    clock = SetClock()
    list(expose(plan(tmp_path, movies=3, interval_s=5.0, mode="rename"), clock=clock))
    assert clock.now == pytest.approx(15.0, abs=0.5)


# ---------------------------------------------------------------------------------------------------- how it grows


class Watched(SetClock):
    """The camera's clock, which looks at the directory whenever the camera pauses."""

    def __init__(self, directory, look):
        super().__init__()
        self.directory, self.look, self.seen = directory, look, []

    def sleep(self, seconds):
        super().sleep(seconds)
        movies = [p for p in self.directory.rglob("*_fractions.*") if p.suffix in {".tiff", ".mrc"}]
        self.seen += [self.look(path) for path in movies]

    @property
    def slept(self):
        return self.now


def state(path: Path) -> int | str:
    """How many frames a file shows, or why it shows none."""
    try:
        return len(read(path))
    except (MovieNotReady, MovieCorrupt) as error:
        return type(error).__name__


def test_page_by_page_a_tiff_is_a_valid_shorter_movie_and_the_sidecar_says_so(tmp_path):
    watched = Watched(tmp_path, lambda path: (state(path), read_sidecar(path).n_frames))
    path = one(tmp_path, watched, mode="page")
    assert watched.seen == [(n, 6) for n in range(1, 7)]
    assert watched.slept == pytest.approx(1.6)
    np.testing.assert_array_equal(read(path), counts_of())


def test_page_by_page_an_mrc_promises_more_than_it_holds(tmp_path):
    watched = Watched(tmp_path, state)
    path = one(tmp_path, watched, mode="page", format="mrc")
    assert watched.seen == ["MovieNotReady"] * 5 + [6]
    np.testing.assert_array_equal(read(path), counts_of())


@pytest.mark.parametrize("kind", ["mrc", "tiff"])
def test_in_pieces_no_file_is_whole_before_the_last(tmp_path, kind):
    watched = Watched(tmp_path, state)
    path = one(tmp_path, watched, mode="grow", format=kind)
    assert len(watched.seen) >= 15
    assert 6 not in watched.seen[:-1]
    assert watched.seen[-1] == 6
    assert watched.slept == pytest.approx(1.6, rel=0.1)
    np.testing.assert_array_equal(read(path), counts_of())


def test_by_rename_nothing_is_seen_before_it_is_whole(tmp_path, monkeypatch):
    seen = []
    rename = Path.rename

    def watched(self, target):
        seen.append((self, target.exists()))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    path = one(tmp_path)
    assert [(hidden.name, existed) for hidden, existed in seen if hidden.name.startswith(f".{path.name}")] == [
        (f".{path.name}.part", False)
    ]
    assert not list(tmp_path.rglob("*.part"))


# ----------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("mode", ["rename", "grow", "page"])
@pytest.mark.parametrize("kind", ["mrc", "tiff"])
def test_a_damaged_movie_is_corrupt(tmp_path, kind, mode):
    whole, broken = expose(plan(tmp_path, movies=2, corrupt=frozenset({1}), format=kind, mode=mode), clock=SetClock())
    assert (whole.corrupt, broken.corrupt) == (False, True)
    assert len(read(whole.path)) == 6
    with pytest.raises(MovieCorrupt):
        read(broken.path)


def test_an_mrc_movie_is_one_that_mrcfile_reads(tmp_path):
    path = one(tmp_path, format="mrc")
    with mrcfile.open(path) as file:
        assert file.data.dtype == np.int8
        np.testing.assert_array_equal(file.data, counts_of())
        assert float(file.voxel_size.x) == pytest.approx(1.37)
    assert struct.unpack("<4i", path.read_bytes()[:16]) == (80, 64, 6, 0)


@pytest.mark.parametrize("layout", ["epu", "serialem"])
def test_an_eer_movie_holds_the_same_electrons_as_a_tiff(tmp_path, layout):
    """Read in fractions of as many hardware frames as the camera divided a frame into."""
    scope = Microscope(shape=(64, 96), n_frames=3, pixel_size=1.25)
    found = {}
    for kind in ("tiff", "eer"):
        plan = Plan(directory=tmp_path / kind, scope=scope, layout=layout, format=kind, truth=False)
        (exposure,) = expose(plan)
        eer = EerSettings(group=RAW_FRAMES)
        header = movie.read_header(exposure.path, eer=eer)
        found[kind] = movie.read_counts(exposure.path, header, in_memory_bytes=1 << 30, threads=1, eer=eer)
        assert read_sidecar(exposure.path).pixel_size == pytest.approx(1.25)
    assert header.pixel_size == pytest.approx(1.25)
    assert header.proves_its_length
    np.testing.assert_array_equal(found["eer"], found["tiff"].clip(max=RAW_FRAMES))
    (gain,) = gain_candidates(tmp_path / "eer")
    np.testing.assert_array_equal(read_gain(gain).values, Detector(scope.shape, 0).gain_reference())


def test_a_damaged_eer_movie_is_corrupt(tmp_path):
    scope = Microscope(shape=(256, 256), n_frames=3)
    plan = Plan(directory=tmp_path, scope=scope, format="eer", corrupt=frozenset({0}), truth=False)
    (exposure,) = expose(plan)
    header = movie.read_header(exposure.path)
    with pytest.raises(StreamerError):
        movie.read_counts(exposure.path, header, in_memory_bytes=1 << 30, threads=1)
