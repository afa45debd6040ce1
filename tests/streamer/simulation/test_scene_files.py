import numpy as np
import pytest

from streamer.metadata.sidecars import read_sidecar
from streamer.readers import movie
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Detector, Microscope
from streamer.simulation.scenes.kinds import kind_of
from streamer.simulation.scenes.scene import Scene, specimen_for
from streamer.simulation.specimen import random_protein

SCOPE = Microscope(shape=(96, 112), n_frames=4, dose_per_frame=2.5)


def exposed(directory, **changes):
    plan = Plan(**{"directory": directory, "scope": SCOPE, "specimen": random_protein(1, 200)} | changes)
    return [e.path for e in expose(plan)]


def truth_of(path):
    return dict(np.load(path.with_name(f"{path.stem}_truth.npz")))


def read(path):
    return movie.read_counts(path, movie.read_header(path), in_memory_bytes=1 << 30, threads=1)


def test_a_scene_is_written_as_it_was_drawn(tmp_path):
    (path,) = exposed(tmp_path, scene="crystal+torn", seed=3)
    one = Scene("crystal+torn", SCOPE, random_protein(1, 200), 3 * 100_003)
    np.testing.assert_array_equal(read(path), np.stack(list(one.frames(Detector(SCOPE.shape, 3)))))
    found, truth = truth_of(path), one.truth()
    assert str(found["kind"]) == "crystal+torn"
    assert {name for name in found if name.startswith("mask")} == {"mask", "mask_crystal", "mask_vacuum"}
    np.testing.assert_array_equal(found["mask_crystal"], truth.masks["crystal"])
    np.testing.assert_array_equal(found["mask"], truth.mask)
    for name in ("heights", "clear", "places", "local", "particles", "displacement"):
        np.testing.assert_array_equal(found[name], getattr(truth, name))


def test_filaments_are_written_as_their_axes(tmp_path):
    found = truth_of(exposed(tmp_path, scene="actin")[0])
    assert found["path_lengths"].sum() == len(found["paths"]) > 0


@pytest.mark.parametrize("layout", ["epu", "serialem"])
def test_the_sidecar_says_how_the_scene_was_taken(tmp_path, layout):
    (path,) = exposed(tmp_path, scene="phase-plate", motion="few-frames", layout=layout)
    beside = {"epu": f"{path.stem.rpartition('_')[0]}.xml", "serialem": f"{path.name}.mdoc"}[layout]
    told = read_sidecar(path.with_name(beside))
    assert told.n_frames == len(read(path)) == 8
    assert told.dose_total == pytest.approx(10.0)
    if layout == "epu":
        assert told.phase_plate is True


def test_a_mixture_follows_the_number_of_the_movie(tmp_path):
    paths = exposed(tmp_path, scene="session", movies=3, first=4, seed=2)
    assert [str(truth_of(path)["kind"]) for path in paths] == [kind_of("session", n, 2) for n in (4, 5, 6)]


def test_a_motion_alone_moves_a_clean_field(tmp_path):
    found = truth_of(exposed(tmp_path, motion="far")[0])
    assert np.linalg.norm(found["displacement"][-1]) == pytest.approx(60.0, abs=0.5)
    assert not found["mask"].any()


def test_kinds_of_structure_show_their_own_and_the_others_what_the_session_has():
    given = random_protein(1, 200)
    assert specimen_for("waves-1", given, 0) is given
    assert specimen_for("small+waves-1", given, 0) is not given
