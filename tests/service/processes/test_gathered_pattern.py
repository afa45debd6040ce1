import numpy as np
import pytest
import tifffile

from service.daemon.gain_watch import offered_gain
from service.processes.gathered_pattern import GatheredPattern, directory_of, made_gain_for
from streamer.detector.orientation import fitted
from streamer.errors import MovieUnsupported, OutputError
from streamer.readers.gain import read_gain
from streamer.readers.movie import identity_of
from streamer.records import Movie, MovieHeader
from streamer.settings import EerSettings, GainSettings
from streamer.writers.made_gain import about_made_gain, newest_made_gain

SHAPE = (96, 128)
SENSITIVITY = 1.0 + 0.06 * np.random.default_rng(0).standard_normal(SHAPE)


def header_of(kind="tiff", upsampling=1):
    return MovieHeader(
        format=kind,
        n_frames=4,
        height=SHAPE[0] * upsampling,
        width=SHAPE[1] * upsampling,
        dtype="uint8",
        upsampling=upsampling,
        proves_its_length=True,
    )


def total_of(number, counts=40.0):
    """Sum of a movie's frames on a specimen of its own."""
    rng = np.random.default_rng(number + 1)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    specimen = 1.0 + 0.1 * np.sin(0.15 * x + number) * np.cos(0.1 * y * (1 + number % 3))
    return rng.poisson(counts * specimen * SENSITIVITY).astype(np.float32)


def gather(root, numbers, gathered=None, header=None, settings=None):
    gathered = gathered or GatheredPattern(settings or GainSettings())
    for number in numbers:
        gathered.add(root, f"id{number}", header or header_of(), total_of(number))
    return gathered


def test_a_gain_is_made_whenever_the_movies_have_doubled_and_never_changes(tmp_path):
    gathered = gather(tmp_path, range(8))
    directory = directory_of(tmp_path, header_of())
    (first,) = directory.glob("*.mrc")
    before = first.read_bytes()
    gather(tmp_path, range(8, 40), gathered)
    assert sorted(path.name for path in directory.glob("*.mrc")) == [f"from-{n:05d}-movies.mrc" for n in (8, 16, 32)]
    assert first.read_bytes() == before
    newest = newest_made_gain(directory)
    about = about_made_gain(newest)
    assert (about.movies, about.made_from) == (32, [f"id{number}" for number in range(32)])
    left = SENSITIVITY * read_gain(newest).values
    assert left.std() / left.mean() == pytest.approx(about.left, rel=0.2)
    assert str(newest) in offered_gain(tmp_path)
    assert "made from 32 movies" in offered_gain(tmp_path)


def test_a_movie_counts_once_also_after_a_restart(tmp_path):
    gather(tmp_path, [*range(6), 0, 1, 2, 3, *range(6, 8)])
    assert newest_made_gain(directory_of(tmp_path, header_of())).name == "from-00008-movies.mrc"
    # another process: what was saved is known, the rest of the movies are new
    gather(tmp_path, [*range(8), *range(8, 16)])
    restarted = about_made_gain(newest_made_gain(directory_of(tmp_path, header_of())))
    whole = gather(tmp_path / "whole", range(16))
    assert whole is not None
    at_once = about_made_gain(newest_made_gain(directory_of(tmp_path / "whole", header_of())))
    assert restarted == at_once


def test_a_kill_costs_movies_but_none_is_doubled(tmp_path):
    gather(tmp_path, range(13))  # saved at 8; the process is gone before it saves again
    gather(tmp_path, range(16))
    about = about_made_gain(newest_made_gain(directory_of(tmp_path, header_of())))
    assert (about.movies, sorted(about.made_from)) == (16, sorted(f"id{number}" for number in range(16)))


@pytest.mark.parametrize("settings", [GainSettings(), GainSettings(rotate=1, flip=2), GainSettings(sense="divide")])
@pytest.mark.parametrize(("kind", "upsampling"), [("tiff", 1), ("eer", 1), ("eer", 2)])
def test_the_file_is_applied_as_it_is_meant_with_the_settings_of_the_session(tmp_path, settings, kind, upsampling):
    header, gathered = header_of(kind, upsampling), GatheredPattern(settings)
    for number in range(32):
        total = total_of(number)
        fine = np.zeros((SHAPE[0], upsampling, SHAPE[1], upsampling), np.float32)
        fine[:, 0, :, -1] = total
        gathered.add(tmp_path, f"id{number}", header, fine.reshape(header.height, header.width))
    gain = read_gain(newest_made_gain(directory_of(tmp_path, header)))
    assert gain.is_made
    values = fitted(gain, header, settings, "m").values[::upsampling, ::upsampling]
    left = SENSITIVITY * values
    assert left.std() / left.mean() < 0.6 * SENSITIVITY.std()


def test_modes_and_what_says_nothing_are_kept_apart(tmp_path):
    gathered = GatheredPattern(GainSettings())
    for number in range(8):
        gather(tmp_path, [number], gathered)
        gather(tmp_path, [number], gathered, header_of("eer"))
        gathered.add(tmp_path, f"blank{number}", header_of(), np.zeros(SHAPE, np.float32))
        gathered.add(tmp_path, f"corrected{number}", header_of(), total_of(number) * 1.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eer-96x128", "tiff-96x128"]
    for directory in tmp_path.iterdir():
        assert about_made_gain(newest_made_gain(directory)).made_from == [f"id{number}" for number in range(8)]


def test_damaged_sums_begin_anew_and_a_full_disk_fails_no_movie(tmp_path, monkeypatch):
    directory = directory_of(tmp_path, header_of())
    directory.mkdir()
    (directory / "sums.safetensors").write_bytes(b"nonsense")
    gathered = gather(tmp_path, range(7))

    def full(path, data):
        raise OutputError("no space left", where=path)

    monkeypatch.setattr("service.processes.gathered_pattern.write_atomically", full)
    gather(tmp_path, range(7, 12), gathered)
    assert newest_made_gain(directory) is None
    monkeypatch.undo()
    gather(tmp_path, range(12, 16), gathered)
    assert newest_made_gain(directory).name == "from-00016-movies.mrc"


def test_without_a_pattern_nothing_is_offered(tmp_path):
    gathered = GatheredPattern(GainSettings())
    for number in range(16):
        flat = np.random.default_rng(number).poisson(40.0, SHAPE).astype(np.float32)
        gathered.add(tmp_path, f"id{number}", header_of(), flat)
    assert newest_made_gain(directory_of(tmp_path, header_of())) is None
    assert offered_gain(tmp_path) is None
    assert offered_gain(tmp_path / "nothing") is None


def test_a_made_gain_is_found_for_a_movie_that_is_a_link(tmp_path):
    gather(tmp_path / "gain", range(8))
    elsewhere, root = tmp_path / "raw" / "a.tif", tmp_path / "root"
    elsewhere.parent.mkdir()
    root.mkdir()
    tifffile.imwrite(elsewhere, np.zeros((4, *SHAPE), np.uint8), photometric="minisblack")
    path = root / "a.tif"
    path.symlink_to(elsewhere)
    movie = Movie(path=str(path), relative="a.tif", session="s", identity=identity_of(elsewhere), evidence="header")
    found = made_gain_for(movie, tmp_path / "gain", EerSettings(), (str(elsewhere.parent),))
    assert found is not None
    assert found.name == "from-00008-movies.mrc"
    with pytest.raises(MovieUnsupported):
        made_gain_for(movie, tmp_path / "gain", EerSettings(), ())
