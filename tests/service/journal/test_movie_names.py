"""A movie is found by what people know of it."""

import os

import pytest

from service.journal.movie_names import KnownMovie, movie_named
from streamer.errors import UsageError

ROOT = "/data/scope"
DISC = "grid1/Images-Disc1"
FIRST = f"{DISC}/GridSquare_8800013/Data/FoilHole_19780084_Data_19779283_19779285_20190101_1200_Fractions.tiff"
SECOND = f"{DISC}/GridSquare_8800014/Data/FoilHole_19780063_Data_19779283_19779285_20190101_1201_Fractions.tiff"
TWICE = f"{DISC}/GridSquare_8800014/Data/FoilHole_19780063_Data_19779287_19779289_20190101_1202_Fractions.tiff"
SERIAL = "grid2/20240301_run.a_0001.tif"
SAME = "grid3/20240301_run.a_0001.tif"
ODD = os.fsdecode(b"grid2/odd\xff name.mrc")


def known(*relatives):
    return [KnownMovie(f"{index:016x}", relative, f"{ROOT}/{relative}") for index, relative in enumerate(relatives)]


ALL = known(FIRST, SECOND, TWICE, SERIAL, SAME, ODD)


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        (FIRST, FIRST),
        (f"{ROOT}/{FIRST}", FIRST),
        (f"{ROOT}/grid9/../{SERIAL}", SERIAL),
        (FIRST.rsplit("/", 1)[-1], FIRST),
        ("FoilHole_19780084_Data_19779283_19779285_20190101_1200_Fractions", FIRST),
        ("FoilHole_19780084_Data_19779283_19779285_20190101_1200_fractions.TIFF", FIRST),
        ("FoilHole_19780084_Data_19779283_19779285_20190101_1200", FIRST),
        ("FoilHole_19780084_Data_19779283_19779285_20190101_1200.xml", FIRST),
        ("FoilHole_19780084_Data_19779283_19779285_20190101_1200_Fractions.mrc", FIRST),
        ("FoilHole_19780084", FIRST),
        ("foilhole_19780084", FIRST),
        ("19780084", FIRST),
        ("GridSquare_8800013/FoilHole_19780084", FIRST),
        ("8800013/19780084", FIRST),
        ("0013/19780084", FIRST),
        ("GridSquare_8800013/Data/" + FIRST.rsplit("/", 1)[-1], FIRST),
        ("grid2/20240301_run.a_0001", SERIAL),
        (f"movies/{SAME}/r2/20240301_run.a_0001.mrc", SAME),
        (f"/out/session/movies/{SERIAL}/r1", SERIAL),
        ("X:\\EPU\\grid2\\20240301_run.a_0001.tif", SERIAL),
        ("D:/raw/grid3/20240301_run.a_0001.tif", SAME),
        ("\\\\camera\\frames\\" + FIRST.rsplit("/", 1)[-1], FIRST),
        (ODD, ODD),
        (ODD.rsplit("/", 1)[-1], ODD),
    ],
)
def test_a_movie_is_found_by(name, relative):
    assert movie_named(name, ALL).relative == relative


@pytest.mark.parametrize("name", ["a.tif", "A.TIF", "grid/a.tif"])
def test_a_name_with_its_suffix_means_no_other_one(name):
    movies = known("grid/a.mrc", "grid/a.tif")
    assert movie_named(name, movies).relative == "grid/a.tif"
    with pytest.raises(UsageError, match="2 movies have this name"):
        movie_named("a", movies)


def test_a_link_to_the_root_leads_to_its_movie(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tif").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    movies = [KnownMovie("0" * 16, "a.tif", str(tmp_path / "real" / "a.tif"))]
    assert movie_named(str(tmp_path / "link" / "a.tif"), movies) == movies[0]


@pytest.mark.parametrize(
    ("name", "several"),
    [
        ("FoilHole_19780063", (SECOND, TWICE)),
        ("8800014/19780063", (SECOND, TWICE)),
        ("20240301_run.a_0001.tif", (SERIAL, SAME)),
        ("20240301_run.a_0001", (SERIAL, SAME)),
    ],
)
def test_several_are_listed(name, several):
    with pytest.raises(UsageError) as caught:
        movie_named(name, ALL)
    message = str(caught.value)
    assert message.startswith(f"{name}: 2 movies have this name; ")
    assert "give more of the path, or the id" in message
    for movie in ALL:
        assert (f"{movie.relative} ({movie.movie_id})" in message) == (movie.relative in several)


def test_a_long_list_is_cut():
    with pytest.raises(UsageError, match=r"15 movies have this name.* and 5 more; give more"):
        movie_named("a", known(*(f"grid{index}/a.tif" for index in range(15))))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("FoilHole_19780085", "FoilHole_19780084"),
        ("20240301_run.a_0002.tif", "20240301_run.a_0001.tif"),
        ("grid2/20240301_run_a_0001.tif", "20240301_run.a_0001.tif"),
    ],
)
def test_one_that_nobody_knows_is_answered_with_the_nearest(name, near):
    with pytest.raises(UsageError) as caught:
        movie_named(name, ALL)
    assert caught.value.exit_code == 64
    assert caught.value.hint.startswith("did you mean ")
    assert near in caught.value.hint


@pytest.mark.parametrize("name", ["", ".", "/", "grid2", "13/19780084", "9999/19780084", "qqq", "0001", "*", "%"])
def test_a_part_of_a_name_is_no_name(name):
    with pytest.raises(UsageError, match="does not know this movie"):
        movie_named(name, ALL)
