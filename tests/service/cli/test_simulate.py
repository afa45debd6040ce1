import numpy as np
import pytest
from click.testing import CliRunner

from service.cli import main
from streamer.errors import UsageError

SMALL = ("--movies", "1", "--size", "64", "80", "--frames", "3", "--specimen", "random")


def simulate(directory, *words):
    return CliRunner().invoke(main.cli, ["simulate", str(directory), *SMALL, *words])


@pytest.mark.parametrize(
    ("words", "listed"),
    [(("--scene", "waves-1+snow"), "carbon-hole"), (("--scene", ""), "session"), (("--motion", "quake"), "vibration")],
)
def test_an_unknown_name_is_refused_with_all_that_there_are(tmp_path, words, listed):
    done = simulate(tmp_path / "out", *words)
    assert isinstance(done.exception, UsageError)
    assert listed in str(done.exception)
    assert not (tmp_path / "out").exists(), "refused before anything was written"


def test_a_scene_and_a_motion_are_written(tmp_path):
    done = simulate(tmp_path, "--scene", "session+crystal", "--motion", "jump")
    assert done.exit_code == 0, done.output
    (truth,) = (dict(np.load(path)) for path in tmp_path.rglob("*_truth.npz"))
    assert str(truth["kind"]).endswith("+crystal")
    assert truth["mask_crystal"].any()
    assert np.linalg.norm(np.diff(truth["displacement"], axis=0), axis=1).max() > 9.0
