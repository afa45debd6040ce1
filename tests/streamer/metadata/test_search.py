import os

import pytest

from streamer.errors import MovieMismatch
from streamer.metadata import shared_mdoc
from streamer.metadata.search import SidecarSearch
from streamer.simulation.microscope import Plan, expose
from streamer.simulation.movie import Microscope
from tests.streamer.metadata.documents import recorded_xml

SCOPE = Microscope(shape=(64, 64), n_frames=2, pixel_size=1.37)


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """Bytes of an XML sidecar."""
    directory = tmp_path_factory.mktemp("epu")
    (exposure,) = expose(Plan(directory=directory, scope=SCOPE, truth=False))
    (path,) = exposure.path.parent.glob("*.xml")
    return path.read_bytes()


@pytest.fixture
def site(tmp_path, document):
    """Movies on one disk, EPU's session on another."""
    movies, session = tmp_path / "movies" / "grid1", tmp_path / "epu"
    movies.mkdir(parents=True)

    def xml(name, square="GridSquare_11", under=session):
        path = under / "Images-Disc1" / square / "Data" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document)
        return path

    return movies, session, xml


def test_beside_the_movie_or_on_another_root_with_another_time(site):
    movies, session, xml = site
    movie = movies / "FoilHole_5_Data_2_3_20260101_120007_fractions.tiff"
    search = SidecarSearch(str(session))
    assert search(movie) is None
    xml("FoilHole_5_Data_2_3_20260101_120000")
    xml("FoilHole_5_Data_2_4_20260101_120000")
    xml("FoilHole_6_Data_2_3_20260101_120000")
    found = search(movie)
    assert found.sidecar == "FoilHole_5_Data_2_3_20260101_120000.xml"
    assert found.pixel_size == pytest.approx(1.37)
    assert (found.grid_square, found.foil_hole, found.template) == ("11", "5", "2")


@pytest.mark.parametrize("kind", ["fractions.mrc", "Fractions.tiff", "EER.eer"])
def test_all_kinds_of_movies(site, kind):
    movies, session, xml = site
    xml("FoilHole_5_Data_2_3_20260101_120000")
    assert SidecarSearch(str(session))(movies / f"FoilHole_5_Data_2_3_20260101_120001_{kind}") is not None


def test_a_different_time_in_the_same_directory(site, document):
    movies, _, _ = site
    (movies / "FoilHole_5_Data_2_3_20260101_120000.xml").write_bytes(document)
    assert SidecarSearch()(movies / "FoilHole_5_Data_2_3_20260101_120001_fractions.tiff") is not None


def test_a_hole_exposed_twice_is_paired_by_the_time_or_not_at_all(site):
    movies, session, xml = site
    xml("FoilHole_5_Data_2_3_20260101_120000")
    xml("FoilHole_5_Data_2_3_20260101_150000")
    search = SidecarSearch(str(session))
    for time, expected in (("120000", "120000"), ("150030", "150000")):
        found = search(movies / f"FoilHole_5_Data_2_3_20260101_{time}_fractions.tiff")
        assert found.sidecar.endswith(f"{expected}.xml")
    with pytest.raises(MovieMismatch, match="several sidecars"):
        search(movies / "FoilHole_5_Data_2_3_20260101_133000_fractions.tiff")


def test_only_directories_that_changed_are_listed_again(site, monkeypatch):
    movies, session, xml = site
    for number in range(20):
        xml(f"FoilHole_{number}_Data_2_3_20260101_120000", square=f"GridSquare_{number}")
    listed = []
    genuine = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: (listed.append(place), genuine(place))[1])
    search = SidecarSearch(str(session))
    movie = movies / "FoilHole_5_Data_2_3_20260101_120001_fractions.tiff"
    search(movie)
    first = len(listed)
    search(movie)
    assert len(listed) == first
    xml("FoilHole_77_Data_2_3_20260101_120000", square="GridSquare_3")
    assert search(movies / "FoilHole_77_Data_2_3_20260101_120001_fractions.tiff") is not None
    assert len(listed) == first + 1


def test_other_names_and_a_missing_root_tell_nothing(site):
    movies, _, xml = site
    xml("FoilHole_5_Data_2_3_20260101_120000")
    assert SidecarSearch("/nowhere/at/all")(movies / "FoilHole_5_Data_2_3_20260101_120000_fractions.tiff") is None
    assert SidecarSearch()(movies / "session_0001.tif") is None
    assert SidecarSearch()(movies / "FoilHole_5_Data_2_3_99999999_999999_fractions.tiff") is None


def test_what_the_camera_recorded_beside_the_movie_completes_epus_document_elsewhere(site):
    movies, session, xml = site
    movie = movies / "FoilHole_5_Data_2_3_20260101_120007_fractions.mrc"
    fractions = [{"NumberOfFrames": 1}, {"NumberOfFrames": 3}]
    movie.with_suffix(".xml").write_text(recorded_xml(fractions, GainCorrection="On"))
    search = SidecarSearch(str(session))
    alone = search(movie)
    assert (alone.n_frames, alone.pixel_size, alone.gain_corrected) == (2, None, True)
    xml("FoilHole_5_Data_2_3_20260101_120000")
    found = search(movie)
    assert (found.sidecar, found.n_frames) == ("FoilHole_5_Data_2_3_20260101_120000.xml", 2)
    assert (found.pixel_size, found.gain_corrected) == (pytest.approx(1.37), True)
    assert found.frame_doses == pytest.approx((found.dose_total / 4, found.dose_total * 3 / 4))


# -------------------------------------------------------------------------------------- one mdoc for many movies


def shared(*names):
    return "Voltage = 200\n" + "".join(
        f"[FrameSet = {n}]\nNumSubFrames = {n + 1}\nSubFramePath = D:\\x\\{name}\n" for n, name in enumerate(names)
    )


@pytest.mark.parametrize("name", ["session.mdoc", "frames of today.mdoc", "zzz.MDOC"])
def test_an_mdoc_of_many_movies_is_found_by_what_it_contains(tmp_path, name):
    (tmp_path / name).write_text(shared("a.tif", "b.tif"))
    search = SidecarSearch()
    for movie, n_frames in (("a.tif", 1), ("b.tif", 2)):
        found = search(tmp_path / movie)
        assert (found.n_frames, found.sidecar, found.voltage_kv) == (n_frames, name, 200)
    assert search(tmp_path / "c.tif") is None
    (tmp_path / name).write_text(shared("a.tif", "b.tif", "c.tif"))
    assert search(tmp_path / "c.tif").n_frames == 3


def test_a_movies_own_comes_first_and_those_of_other_images_are_not_looked_at(tmp_path):
    (tmp_path / "session.mdoc").write_text(shared("a.tif"))
    (tmp_path / "a.tif.mdoc").write_text("[FrameSet = 0]\nNumSubFrames = 9\nPixelSpacing = 1\n")
    assert SidecarSearch()(tmp_path / "a.tif").n_frames == 9
    (tmp_path / "stack.mrc").touch()
    (tmp_path / "stack.mrc.mdoc").write_text(shared("b.tif"))
    assert SidecarSearch()(tmp_path / "b.tif") is None


def test_a_damaged_one_stops_no_movie_and_each_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "old.mdoc").write_bytes(b"only words")
    (tmp_path / "link.mdoc").symlink_to(tmp_path / "nowhere")
    (tmp_path / "session.mdoc").write_text(shared("a.tif", "b.tif"))
    read = []
    genuine = shared_mdoc.read_mdoc
    monkeypatch.setattr(shared_mdoc, "read_mdoc", lambda path: read.append(path.name) or genuine(path))
    search = SidecarSearch()
    assert [search(tmp_path / f"{name}.tif").n_frames for name in "abab"] == [1, 2, 1, 2]
    assert search(tmp_path / "c.tif") is None
    assert read == ["session.mdoc", "old.mdoc"]
