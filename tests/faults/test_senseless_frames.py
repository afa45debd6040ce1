"""F11: frames without sense are refused or flagged, and no record holds a NaN."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamer import jsontext
from streamer.errors import MovieCorrupt, MovieNotReady, StreamerError
from streamer.metadata.sidecars import read_sidecar
from streamer.movie_record import Acquisition
from streamer.pipeline import process_movie
from streamer.readers import movie
from streamer.readers.files import identity_of
from streamer.records import Movie
from streamer.runtime.stopwatch import Stopwatch
from streamer.settings import DataPathSettings
from tests.faults.writer_models import mrc_head, tiff_states
from tests.jobs import job_of

SHAPE, N_FRAMES = (128, 128), 8
MODES = {"float32": 2, "float16": 12, "uint16": 6, "int16": 1}


def poisson(mean: float = 3.0, seed: int = 0) -> np.ndarray:
    """Frames of a camera that sees nothing but electrons."""
    return np.random.default_rng(seed).poisson(mean, (N_FRAMES, *SHAPE))


def mrc(path: Path, frames: np.ndarray) -> Path:
    path.write_bytes(mrc_head(len(frames), frames.shape[1:], MODES[frames.dtype.name]) + frames.tobytes())
    return path


def checked(path: Path, *, streamed: bool) -> None:
    header = movie.read_header(path)
    counts = movie.read_counts(path, header, in_memory_bytes=0 if streamed else 1 << 30, threads=1)
    movie.check_content(path, counts)


def processed(path: Path, directory: Path, acquisition: Acquisition | None = None, **tables: dict) -> object:
    """Its record, or the error's own."""
    settings = DataPathSettings()
    changes = {name: msgspec.structs.replace(getattr(settings, name), **values) for name, values in tables.items()}
    job = job_of(directory, settings=msgspec.structs.replace(settings, **changes))
    there = Movie(
        path=str(path),
        relative=path.name,
        session="s",
        identity=identity_of(path),
        acquisition=acquisition or Acquisition(),
    )
    try:
        return process_movie(there, job, Stopwatch())
    except StreamerError as error:
        return error.reason()


def plain(record: object) -> dict:
    """A record as JSON that knows no NaN."""

    return json.loads(jsontext.encode(record), parse_constant=no_constant)


def no_constant(constant: str) -> float:
    raise AssertionError(f"{constant} in a record")


def numbers(value: object) -> list[float]:
    """All floats of a record as it is before it is encoded."""
    if isinstance(value, float):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [number for item in value for number in numbers(item)] if isinstance(value, (list, tuple)) else []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_number_that_is_none_is_refused_wherever_it_is(dtype, streamed, tmp_path, often, report):
    n, rng, refused = often(6, 60), np.random.default_rng(1), 0
    for number in range(n):
        frames = poisson().astype(dtype)
        value = (np.nan, np.inf, -np.inf)[number % 3]
        if number < 3:
            frames[rng.integers(N_FRAMES)] = value
        else:
            frames[tuple(rng.integers(0, size) for size in frames.shape)] = value
        path = mrc(tmp_path / f"{number}.mrc", frames)
        with pytest.raises(MovieCorrupt, match="not finite"):
            checked(path, streamed=streamed)
        refused += 1
    what = f"NaN or infinity, {dtype}{', streamed' if streamed else ''}"
    report("F11", what, n=n, figure=f"{refused} refused", target=f"{n} refused")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("all dead", MovieCorrupt),
        ("all constant", MovieCorrupt),
        ("all the same", MovieCorrupt),
        ("last dead", MovieNotReady),
        ("one frame, dead", MovieCorrupt),
    ],
)
def test_a_movie_without_information_is_refused(name, error, tmp_path, report):
    frames = poisson().astype(np.uint16)
    frames = {
        "all dead": frames * 0,
        "all constant": frames * 0 + 5,
        "all the same": np.repeat(frames[:1], N_FRAMES, 0),
        "last dead": np.concatenate([frames[:-1], frames[-1:] * 0]),
        "one frame, dead": frames[:1] * 0,
    }[name].astype(np.uint16)
    paths = [mrc(tmp_path / "a.mrc", frames), tmp_path / "a.tif"]
    paths[1].write_bytes(tiff_states(frames.astype(np.uint8), "lzw", rows=32)[-1])
    for path in paths:
        for streamed in (False, True):
            with pytest.raises(error):
                checked(path, streamed=streamed)
        reason = plain(processed(path, tmp_path / "out"))
        assert reason["error"] == error.__name__
    assert not list((tmp_path / "out").rglob("*.json"))
    report("F11", name, n=4, figure=f"4 {error.__name__}", target="refused, no output")


CASES: dict[str, tuple[dict, dict]] = {
    "first frame dead": {"dead": [0]},
    "a frame in the middle dead": {"dead": [4]},
    "all but two frames dead": {"dead": [0, 1, 2, 4, 5, 6]},
    "a constant frame": {"constant": [3]},
    "a frame of huge numbers": {"huge": [3]},
    "a frame of the largest numbers allowed": {"large": [3]},
    "all frames of large numbers": {"large": list(range(N_FRAMES))},
    "half of the detector dead": {"half": True},
    "one electron in all": {"single": True},
    "one frame only": {"one": True},
    "no dose known": {"movie": {"dose_per_frame": None}},
    "zero dose in the sidecar": {"mdoc": "ExposureDose = 0\nFrameDosesAndNumber = 0 8\n"},
    "zero dose in the settings": {"movie": {"dose_per_frame": 0.0}},
    "a tiny dose in the settings": {"movie": {"dose_per_frame": 1e-300}},
    "a negative dose in the settings": {"movie": {"dose_per_frame": -1.0}},
    "a huge dose": {"movie": {"dose_per_frame": 1e6}},
    "no pixel size": {"movie": {"pixel_size": None}},
}


def senseless(case: dict) -> np.ndarray:
    frames = poisson().astype(np.float32)
    frames[case.get("dead", [])] = 0
    frames[case.get("constant", [])] = 7
    frames[case.get("huge", [])] *= 1e30
    frames[case.get("large", [])] *= movie.LARGEST_COUNT / frames.max()
    if case.get("half"):
        frames[:, :, : SHAPE[1] // 2] = 0
    if case.get("single"):
        frames[:] = 0
        frames[-1, 5, 5] = 1
    return frames[:1] if case.get("one") else frames


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CASES)
def test_no_record_of_a_strange_movie_holds_a_nan(name, tmp_path, report):
    case = CASES[name]
    path = mrc(tmp_path / "a.mrc", senseless(case))
    path.with_name("a.mrc.mdoc").write_text("[FrameSet = 0]\nVoltage = 300\n" + case.get("mdoc", ""))
    settings = {"pixel_size": 1.0, "dose_per_frame": None if "mdoc" in case else 1.0} | case.get("movie", {})
    record = processed(path, tmp_path / "out", read_sidecar(path), movie=settings)
    found = plain(record)
    for written in (tmp_path / "out").rglob("*.json"):
        json.loads(written.read_bytes(), parse_constant=no_constant)
    nulled = sum(not np.isfinite(number) for number in numbers(msgspec.to_builtins(record)))
    figure = f"{found.get('state', found.get('error'))}, flags: {'; '.join(found.get('flags', [])) or 'none'}; "
    figure += f"0 NaN, {nulled} became null"
    report("F11", name, n=1, figure=figure, target="processed or refused, 0 NaN")
    assert found.get("state") == "done" or found["error"].startswith(("Movie", "Stage"))
