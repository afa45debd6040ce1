"""The command ``gain``, and the marks at figures that the detector's pattern may have raised."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from rich.console import Console

from service.cli.main import cli
from service.subscribers.monitor import MonitorView
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Detector, Microscope
from tests.service_samples import make_record

SCOPE = Microscope(shape=(128, 160), n_frames=6, pixel_size=2.0, dose_per_frame=3.0)


@pytest.fixture(scope="module", params=["tiff", "eer"])
def movies(request, tmp_path_factory):
    """Movies of which nobody recorded a gain."""
    directory = tmp_path_factory.mktemp(request.param)
    plan = Plan(
        directory=directory, movies=12, scope=SCOPE, seed=3, layout="serialem", format=request.param, truth=False
    )
    paths = [exposure.path for exposure in expose(plan)]
    for path in directory.iterdir():
        if path not in paths and path.suffix != ".mdoc":
            path.unlink()
    return paths


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert result.return_value in (code, None), result.output
    return result


def test_the_gain_fits_a_movie_that_it_was_not_made_from(movies, tmp_path):
    output = tmp_path / "made.mrc"
    said = run("gain", *movies[1:], "--output", output).output
    assert "made from 11 movies" in said
    assert "certainty" in said
    assert "more movies like these" in said
    about = json.loads(output.with_suffix(".json").read_text())
    assert about["sense"] == ("divide" if movies[0].suffix == ".eer" else "multiply")
    truth = Detector(SCOPE.shape, 3).efficiency
    assert about["spread"] == pytest.approx(0.055, abs=0.012)
    assert about["left"] < about["spread"]
    record = json.loads(run("process", movies[0], "--gain", output, "--output", tmp_path / "out", "--json").output)
    assert record["source"]["gain_path"] == str(output)
    assert abs(record["metrics"]["residual_gain"]) < 4.0 * record["metrics"]["residual_gain_error"]
    assert "gain: made.mrc was made from movies" in record["flags"]
    # a part of the pattern stays, and nobody is told otherwise
    assert record["metrics"]["pattern_may_raise"] is True
    assert truth.shape == SCOPE.shape


def test_what_cannot_be_used_is_left_out_with_the_reason(movies, tmp_path):
    blank, corrected, larger = (tmp_path / name for name in ("blank.tif", "corrected.tif", "larger.tif"))
    tifffile.imwrite(blank, np.zeros((6, *SCOPE.shape), np.uint8))
    rng = np.random.default_rng(0)
    tifffile.imwrite(corrected, 1.37 * rng.poisson(3.0, (6, *SCOPE.shape)).astype(np.float32))
    tifffile.imwrite(larger, rng.poisson(3.0, (6, 256, 256)).astype(np.uint8))
    others = [blank, corrected, larger, movies[0], tmp_path / "nothing.tif"]
    result = run("gain", *movies[:4], *others, "--output", tmp_path / "made.mrc", "--json", code=1)
    found = json.loads(result.stdout)
    assert found["movies"] == 4
    reasons = {one["path"].rsplit("/", 1)[-1]: one["reason"] for one in found["left_out"]}
    assert "given twice" in reasons[movies[0].name]
    assert "no such file" in reasons["nothing.tif"]
    if movies[0].suffix == ".eer":
        assert "is tiff, the others are eer" in reasons["larger.tif"]
        return
    assert "no counts in any frame" in reasons["blank.tif"]
    assert "gain corrected already" in reasons["corrected.tif"]
    assert "256" in reasons["larger.tif"]


def test_nothing_is_overwritten_and_one_movie_is_not_enough(movies, tmp_path):
    there = tmp_path / "a.mrc"
    there.write_bytes(b"mine")
    for output, words in ((there, "already exists"), (tmp_path / "a.tif", "written as MRC")):
        with pytest.raises(Exception, match=words):
            run("gain", *movies[:2], "--output", output)
    with pytest.raises(Exception, match="at least two movies"):
        run("gain", movies[0], "--output", tmp_path / "b.mrc")
    assert there.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [there]


def test_figures_that_the_pattern_may_have_raised_are_marked_where_they_are_printed(movies, tmp_path):
    said = run("process", movies[0], "--output", tmp_path).output
    assert "the detector's pattern may have raised it" in said
    (even,) = tmp_path.rglob("*_EVN.mrc")
    (odd,) = tmp_path.rglob("*_ODD.mrc")
    assert "NOTE 1 of 1 micrograph: no gain corrected the frames" in run("quality", even, odd).output
    assert json.loads(run("quality", even, odd, "--json").output)["pattern_may_raise"] == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    halves = [file.rename(elsewhere / file.name) for file in (even, odd)]
    assert json.loads(run("quality", *halves, "--json").output)["pattern_may_raise"] is None


def test_the_monitor_marks_them(monitor_text):
    assert "0.20?" in monitor_text(pattern_may_raise=True)
    assert "4.5?" in monitor_text(pattern_may_raise=True)
    assert "0.20?" not in monitor_text(pattern_may_raise=False)


@pytest.fixture
def monitor_text():
    """What the monitor shows of one movie with these metrics."""

    def text(**metrics):
        record = make_record()
        body = msgspec.to_builtins(replace(record, metrics=replace(record.metrics, **metrics)))
        board = MonitorView()
        board.add(SimpleNamespace(kind="movie", body=body, seq=1, t_utc="2026-01-01T00:00:00Z"))
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(board.draw(24))
        return console.export_text()

    return text
