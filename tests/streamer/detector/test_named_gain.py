"""What a sidecar, or the movie itself, says about the gain reference decides between several."""

import mrcfile
import numpy as np
import pytest

from streamer.detector import gain_choice
from streamer.detector.gain_choice import GainChoice
from streamer.errors import ConfigError
from streamer.metadata.sidecars import read_sidecar
from streamer.readers.eer_metadata import gain_named_by
from streamer.readers.gain import base_name, named_among, stem
from streamer.readers.movie import read_header
from streamer.simulation import eer_encoder
from tests.clocks import AskedClock
from tests.streamer.metadata.documents import epu_xml, mdoc_text


@pytest.fixture
def choice(tmp_path):
    return GainChoice(tmp_path, None, clock=AskedClock(lambda: 0.0))


def put(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"values")
    return paths


@pytest.mark.parametrize(
    ("named", "present"),
    [
        ("SuperRef_day1.dm4", "SuperRef_day1.mrc"),
        ("SuperRef_day1.dm4", "superref_DAY1.tif"),
        ("SuperRef_day1.dm4", "SuperRef_day1.dm4.mrc"),
        ("X:\\gains\\CountRef_5.dm4", "CountRef_5.mrc"),
        ("20240101_EER_GainReference.gain", "20240101_EER_GainReference.tif"),
        ("/gains/gain_7.mrc", "gain_7.MRC"),
        ('"gain_7.mrc"', "gain_7.tiff"),
    ],
)
def test_the_one_of_this_stem_is_chosen_among_several(tmp_path, choice, named, present):
    (right, *_) = put(tmp_path / present, tmp_path / "gain_old.mrc", tmp_path / "CountRef_51.mrc")
    assert choice.for_movie(tmp_path / "m.tif", base_name(named)) == right


def test_the_very_name_comes_before_its_stem(tmp_path, choice):
    gain, mrc, _ = put(tmp_path / "gain_a.gain", tmp_path / "gain_a.mrc", tmp_path / "gain_b.mrc")
    assert choice.for_movie(tmp_path / "m.tif", "gain_a.gain") == gain
    assert choice.for_movie(tmp_path / "m.tif", "gain_a.mrc") == mrc
    with pytest.raises(ConfigError, match=r"expected one, or gain_a\.dm4"):
        choice.for_movie(tmp_path / "m.tif", "gain_a.dm4")


def test_the_nearest_of_this_name_is_chosen_and_another_nearer_one_is_not(tmp_path, choice):
    near, upper, top, other = put(
        tmp_path / "day" / "grid" / "gain_a.mrc",
        tmp_path / "day" / "gain_a.tif",
        tmp_path / "gain_b.mrc",
        tmp_path / "day" / "grid" / "Data" / "gain_c.mrc",
    )
    movie = tmp_path / "day" / "grid" / "Data" / "m.tif"
    assert choice.for_movie(movie, "gain_a.dm4") == near
    assert choice.for_movie(movie, "gain_b.dm4") == top
    assert choice.for_movie(tmp_path / "day" / "m.tif", "gain_a.dm4") == upper
    # nobody names one, or one that is nowhere: the only one in the nearest place
    assert choice.for_movie(movie) == other
    assert choice.for_movie(movie, "gain_z.dm4") == other


def test_a_place_that_is_farther_is_looked_into_only_where_there_is_a_choice(tmp_path, choice, monkeypatch):
    """One that cannot be listed is not taken for one without gains, but need not be listed for a gain that is near."""
    (near,) = put(tmp_path / "day" / "gain_a.mrc")
    genuine = gain_choice.gains_in

    def listed(directory):
        if directory == tmp_path:
            raise OSError(5, "Input/output error")
        return genuine(directory)

    monkeypatch.setattr(gain_choice, "gains_in", listed)
    movie = tmp_path / "day" / "m.tif"
    assert choice.for_movie(movie) == near
    assert choice.for_movie(movie, "gain_a.dm4") == near
    with pytest.raises(ConfigError, match="cannot be searched"):
        choice.for_movie(movie, "gain_b.dm4")


def test_one_of_another_session_is_not_taken_for_it(tmp_path, choice):
    own, _ = put(tmp_path / "day1" / "gain_old.mrc", tmp_path / "day2" / "gain_a.mrc")
    assert choice.for_movie(tmp_path / "day1" / "m.tif", "gain_a.mrc") == own


def test_among_those_elsewhere_the_named_one_is_chosen(tmp_path, choice):
    right, _ = put(tmp_path / "gains" / "gain_a.mrc", tmp_path / "gains" / "gain_b.mrc")
    assert choice.for_movie(tmp_path / "day" / "m.tif", "gain_a.gain") == right
    with pytest.raises(ConfigError, match="several"):
        choice.for_movie(tmp_path / "day" / "m.tif", "gain_c.gain")


def eer(path, named):
    metadata = {"numberOfFrames": ("", "4")} | ({} if named is None else {"eerGainReference": ("", named)})
    rng = np.random.default_rng(0)
    events = eer_encoder.events_of((rng.random((64, 64)) < 0.1).astype(np.uint8), 4, rng)
    streams = (eer_encoder.encode_frame(each, 64 * 64, eer_encoder.BITS[65001]) for each in events)
    path.write_bytes(eer_encoder.encode_eer(streams, (64, 64), compression=65001, metadata=metadata))
    return path


def test_an_eer_movie_names_its_own(tmp_path, choice):
    right, other = put(tmp_path / "1_EER_GainReference.gain", tmp_path / "2_EER_GainReference.gain")
    movie = eer(tmp_path / "m.eer", "D:\\Gains\\1_eer_gainreference.gain")
    assert gain_named_by(movie) == "1_eer_gainreference.gain"
    assert read_header(movie).gain_reference == "1_eer_gainreference.gain"
    assert choice.for_movie(movie) == right
    assert choice.for_movie(movie, "nowhere.gain") == right
    assert choice.for_movie(movie, "2_EER_GainReference.gain") == other
    silent = eer(tmp_path / "n.eer", None)
    assert gain_named_by(silent) is None
    with pytest.raises(ConfigError, match="several"):
        choice.for_movie(silent)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0" + b"\xff" * 100, b"text" * 400])
def test_a_movie_that_cannot_be_read_names_none(tmp_path, content):
    (tmp_path / "m.eer").write_bytes(content)
    assert gain_named_by(tmp_path / "m.eer") is None
    assert gain_named_by(tmp_path / "none.eer") is None


def test_the_words_of_the_sidecars_reach_the_choice(tmp_path, choice):
    a, b = put(tmp_path / "SuperRef_a.mrc", tmp_path / "20240101_EER_GainReference.gain")
    (tmp_path / "m.tif.mdoc").write_text(mdoc_text(file="m.tif", GainReference="SuperRef_a.dm4"))
    found = read_sidecar(tmp_path / "m.tif")
    assert choice.for_movie(tmp_path / "m.tif", found.gain_reference) == a
    custom = {"Detectors[EF-Falcon].EerGainReference": "C:\\Gains\\20240101_EER_GainReference.gain"}
    (tmp_path / "FoilHole_1_Data_2_3.xml").write_text(epu_xml(custom=custom))
    found = read_sidecar(tmp_path / "FoilHole_1_Data_2_3_EER.eer")
    assert choice.for_movie(tmp_path / "FoilHole_1_Data_2_3_EER.eer", found.gain_reference) == b


def test_names():
    assert [stem(name) for name in ("A.dm4", "a.DM4.mrc", "a.gain", ".mrc")] == ["a", "a", "a", ".mrc"]
    assert stem("gain_1.5") == "gain_1.5"
    assert base_name(None) is base_name("") is None
    assert named_among([], "a") == named_among([], None) == []


@pytest.mark.parametrize(
    ("named", "present"),
    [
        ("K3_300kV.dm4", "K3_300kV.mrc"),
        ("norm-2024.01.mrc", "norm-2024.01.mrc"),
        ("K3_300kV.dm4", "K3_300kV.tif"),
        ("20240101_x.raw", "20240101_x.mrc"),
    ],
)
def test_what_the_sidecar_names_is_a_reference_whatever_its_name(tmp_path, choice, named, present):
    movie = tmp_path / "day" / "m.tif"
    (upper,) = put(tmp_path / present)
    put(movie)
    assert choice.for_movie(movie, named) == upper
    assert choice.for_movie(movie) is None
    # also against one that has a usual name, wherever that is
    put(tmp_path / "day" / "gain_old.mrc")
    assert choice.for_movie(movie, named) == upper
    (near,) = put(tmp_path / "day" / present)
    assert choice.for_movie(movie, named) == near


def test_a_movie_of_the_name_is_no_reference_and_neither_is_a_directory(tmp_path, choice):
    with mrcfile.new(tmp_path / "K3_1.mrc") as file:
        file.set_data(np.ones((4, 32, 32), np.int8))
    (tmp_path / "K3_1.tif").mkdir()
    assert choice.for_movie(tmp_path / "m.tif", "K3_1.dm4") is None
