"""A pixel size belongs to an image; the movie may be another one."""

from dataclasses import replace

import pytest

from streamer.errors import MovieMismatch
from streamer.metadata import epu, mdoc
from streamer.metadata.pixel_size import choose_pixel_size
from streamer.metadata.source import describe_source
from streamer.movie_record import Acquisition
from streamer.readers.movie import identity_of
from streamer.records import Movie, MovieHeader
from streamer.settings import DataPathSettings, MovieSettings
from tests.streamer.metadata.documents import epu_xml, mdoc_text


def movie(width: int, height: int, pixel_size: float | None = None, **known: object) -> MovieHeader:
    return MovieHeader(
        format="tiff", n_frames=10, height=height, width=width, dtype="uint8", pixel_size=pixel_size, **known
    )


def chosen(told: Acquisition, header: MovieHeader, **settings: object) -> tuple[float | None, str | None, list[str]]:
    flags: list[str] = []
    value, rule = choose_pixel_size(told, header, MovieSettings(**settings), flags)
    return (None if value is None else round(value, 6)), rule, flags


def by_epu(header: MovieHeader, **document: object) -> tuple[float | None, str | None, list[str]]:
    return chosen(epu.parse(epu_xml(**document).encode()), header)


def by_serialem(header: MovieHeader, **document: object) -> tuple[float | None, str | None, list[str]]:
    return chosen(mdoc.parse(mdoc_text(**document), "a.tif"), header)


# ----------------------------------------------------------------------- the value is of an image of another size


@pytest.mark.parametrize(
    ("size", "readout", "binning", "pixel_size"),
    [
        pytest.param((5760, 4092), (2880, 2046), 2, 0.83, id="K3, integrated image binned by 2"),
        pytest.param((4092, 5760), (2880, 2046), 2, 0.83, id="K3, turned by a quarter"),
        pytest.param((11520, 8184), (5760, 4092), 1, 0.83, id="K3, super-resolution movie"),
        pytest.param((11520, 8184), (2880, 2046), 2, 0.415, id="K3, super-resolution movie, binned image"),
        pytest.param((4096, 4096), (1024, 1024), 4, 0.415, id="Falcon, preview binned by 4"),
        pytest.param((2048, 2048), (4096, 4096), 1, 3.32, id="binned movie"),
        pytest.param((1024, 1024), (4096, 4096), 1, 6.64, id="movie binned by 4"),
        pytest.param((3838, 3710), (1919, 1855), 2, 0.83, id="K2"),
        pytest.param((3838, 3710), (959, 927), 4, 0.415, id="K2, binned by 4: what is left of the sides is cut off"),
    ],
)
def test_it_is_scaled_by_the_ratio_of_the_sizes(size, readout, binning, pixel_size):
    assert by_epu(movie(*size), readout=readout, binning=binning) == (pixel_size, "sidecar, scaled", [])
    # the movie's own header agrees, or the one who is wrong is named
    assert by_epu(movie(*size, pixel_size), readout=readout, binning=binning)[2] == []
    value, rule, flags = by_epu(movie(*size, 1.66), readout=readout, binning=binning)
    assert (value, rule) == (pixel_size, "sidecar, scaled")
    assert flags == [f"pixel_size: sidecar says {pixel_size:g}, header says 1.66"]


@pytest.mark.parametrize(
    ("size", "readout", "binning"),
    [
        ((4096, 4096), (4096, 4096), 1),
        ((5760, 4092), (5760, 4092), 1),
        ((3710, 3838), (3838, 3710), 1),
        ((300, 200), (300, 200), 1),
        ((2048, 2048), (2048, 2048), 2),  # of a Falcon: image and movie are binned
        ((2880, 2046), (2880, 2046), 2),  # of a K3
        ((4092, 5760), (5760, 4092), 1),
    ],
)
def test_of_an_image_of_the_same_size_it_is_the_movies(size, readout, binning):
    assert by_epu(movie(*size), readout=readout, binning=binning) == (1.66, "sidecar", [])
    assert by_epu(movie(*size)) == (1.66, "sidecar", [])


@pytest.mark.parametrize(
    ("size", "readout"),
    [
        ((5760, 4092), (4096, 4096)),
        ((4092, 4092), (2880, 2046)),  # cropped
        ((4096, 4096), (1365, 1365)),  # binned by 3
        ((4096, 2048), (4096, 4096)),  # by 2 along one axis
        ((4096, 4096), (512, 512)),
    ],
)
def test_with_any_other_ratio_it_is_not_used(size, readout):
    value, rule, flags = by_epu(movie(*size), readout=readout)
    expected = (
        f"pixel_size: the sidecar's 1.66 is of an image of {readout[0]} × {readout[1]} px, which is no binning of the "
        f"movie's {size[0]} × {size[1]}: not used"
    )
    assert (value, rule, flags) == (None, None, [expected])
    # another source serves, and the flag remains
    assert by_epu(movie(*size, 0.83), readout=readout) == (0.83, "header", [expected])


def test_a_movie_without_any_other_source_fails_and_says_why(tmp_path):
    path = tmp_path / "a.tiff"
    path.write_bytes(b"frames")
    told = epu.parse(epu_xml(readout=(4096, 4096)).encode())
    known = Movie(path=str(path), relative="a.tiff", session="s", identity=identity_of(path), acquisition=told)
    with pytest.raises(MovieMismatch, match=r"pixel size is unknown.*no binning of the movie's 5760 × 4092: not used"):
        describe_source(known, movie(5760, 4092), DataPathSettings(), None)
    source, flags = describe_source(
        known, movie(5760, 4092), DataPathSettings(movie=MovieSettings(pixel_size=0.83)), None
    )
    assert (source.pixel_size, source.pixel_size_from) == (0.83, "settings")
    assert [flag for flag in flags if "pixel_size" in flag] == []


# --------------------------------------------------------------------------------------------- other evidence


@pytest.mark.parametrize("size", [(4096, 4096), (5000, 4092), (3000, 2000)])
def test_an_image_that_is_binned_and_yet_as_large_as_the_movie_is_doubtful(size):
    """Is the readout area counted before or after binning?"""
    told = {"readout": size, "binning": 2}
    assert by_epu(movie(*size), **told) == (
        1.66,
        "sidecar",
        [
            "pixel_size: the sidecar's image is binned by 2 and as large as the movie: 1.66 was used, but 0.83 is "
            "possible; set movie.pixel_size"
        ],
    )
    assert by_epu(movie(*size, 1.66), **told) == (1.66, "sidecar", [])
    assert by_epu(movie(*size, 0.83), **told) == (
        0.83,
        "header",
        ["pixel_size: header says 0.83, sidecar says 1.66"],
    )


@pytest.mark.parametrize("size", [(5760, 4092), (4092, 5760), (3710, 3838), (3838, 3710)])
def test_the_image_of_a_camera_set_to_super_resolution_is_binned_to_the_physical_pixels(size):
    """11520 × 8184 by 2: no doubt without a header that says another."""
    told = {"readout": (max(size), min(size)), "binning": 2}
    for header in (movie(*size), movie(*size, 1.66)):
        assert by_epu(header, **told) == (1.66, "sidecar", [])
    assert by_epu(movie(*size, 0.83), **told) == (0.83, "header", ["pixel_size: header says 0.83, sidecar says 1.66"])
    # its super-resolution movies have half of that
    assert by_epu(movie(2 * size[0], 2 * size[1]), **told) == (0.83, "sidecar, scaled", [])
    doubt = by_epu(movie(*size), reference=0.83, **told)
    assert doubt == (1.66, "sidecar", ["pixel_size: sidecar says 1.66, its ReferenceTransformation says 0.83"])


@pytest.mark.parametrize("factor", [2, 4, 0.5, 0.25])
def test_where_the_sidecars_image_is_not_told_a_binning_explains_the_difference(factor):
    own = 1.66 / factor
    assert by_epu(movie(4096, 4096, own)) == (
        round(own, 6),
        "header",
        [f"pixel_size: header says {own:g}, sidecar says 1.66"],
    )


@pytest.mark.parametrize("own", [1.5, 3.0, 1.66 / 3])
def test_other_differences_are_told_and_the_sidecar_holds(own):
    assert by_epu(movie(4096, 4096, own)) == (
        1.66,
        "sidecar",
        [f"pixel_size: sidecar says 1.66, header says {own:g}"],
    )


def test_two_that_agree_hold_against_the_third():
    told = {"readout": (4096, 4096), "pixel_size": 1.66, "reference": 0.83}
    assert by_epu(movie(4096, 4096, 0.83), **told) == (
        0.83,
        "header",
        ["pixel_size: header says 0.83, sidecar says 1.66"],
    )
    assert by_epu(movie(4096, 4096, 1.66), **told) == (1.66, "sidecar", [])
    assert by_epu(movie(4096, 4096), **told) == (
        1.66,
        "sidecar",
        ["pixel_size: sidecar says 1.66, its ReferenceTransformation says 0.83"],
    )
    # of a binned image both are
    half = told | {"readout": (2048, 2048)}
    assert by_epu(movie(4096, 4096, 0.415), **half)[:2] == (0.415, "header")
    assert by_epu(movie(4096, 4096), **told | {"reference": 1.66}) == (1.66, "sidecar", [])


def test_the_users_word_holds_and_what_contradicts_it_is_told():
    told = epu.parse(epu_xml(readout=(2880, 2046), binning=2).encode())
    header = movie(5760, 4092)
    assert chosen(told, header, pixel_size=0.83) == (0.83, "settings", [])
    assert chosen(told, header, pixel_size=1.66) == (
        1.66,
        "settings",
        ["pixel_size: settings says 1.66, sidecar says 0.83"],
    )
    calibrated = {"pixel_size_by_magnification": {"105000": 0.834}}
    assert chosen(told, header, **calibrated) == (0.834, "magnification", [])
    assert chosen(told, header, pixel_size=0.83, **calibrated)[:2] == (0.83, "settings")


def test_what_cannot_be_a_pixel_size_is_not_used():
    told = epu.parse(epu_xml(pixel_size=1.66, y=0.83).encode())
    assert (told.pixel_size, told.remarks) == (
        None,
        ("pixel_size: the sidecar says 1.66 along x and 0.83 along y: not used",),
    )
    assert by_epu(movie(4096, 4096), pixel_size=0.0) == (None, None, [])


def test_on_a_finer_grid_the_sizes_are_compared_in_physical_pixels():
    header = replace(movie(8192, 8192, 0.415), format="eer", n_raw_frames=100, upsampling=2)
    assert by_epu(header, readout=(4096, 4096), pixel_size=0.83) == (0.415, "sidecar", [])
    assert by_epu(header, readout=(2048, 2048), pixel_size=1.66) == (0.415, "sidecar, scaled", [])


# ----------------------------------------------------------------------------------------------- SerialEM


@pytest.mark.parametrize(
    ("size", "binning", "pixel_size"),
    [
        pytest.param((5760, 4092), 0.5, 2.5, id="K3, binned from super-resolution"),
        pytest.param((11520, 8184), 1, 0.625, id="K3, super-resolution, the sum is not"),
        pytest.param((5760, 4092), 2, 0.625, id="K3, the sum is binned"),
        pytest.param((4092, 5760), 4, 0.3125, id="K3, turned"),
        pytest.param((3838, 3710), 2, 0.625, id="K2"),
        pytest.param((7676, 7420), 1, 0.625, id="K2, super-resolution"),
        pytest.param((2880, 2046), 1, 2.5, id="K3, binned movie"),
    ],
)
def test_serialems_value_is_for_the_binning_that_is_written_with_it(size, binning, pixel_size):
    assert by_serialem(movie(*size), Binning=binning) == (pixel_size, "sidecar, scaled", [])
    assert by_serialem(movie(*size, pixel_size), Binning=binning)[2] == []


@pytest.mark.parametrize(
    ("size", "binning"),
    [
        ((5760, 4092), 1),
        ((11520, 8184), 0.5),
        ((3710, 3838), 1),
        ((7420, 7676), 0.5),
        ((4096, 4096), 1),
        ((300, 200), 1),
    ],
)
def test_serialems_value_is_the_movies_where_the_binning_is(size, binning):
    assert by_serialem(movie(*size), Binning=binning) == (1.25, "sidecar", [])


def test_a_binning_that_the_size_does_not_explain_is_doubtful():
    expected = (
        "pixel_size: the sidecar's 1.25 is for binning 2, and the movie's size does not show whether its frames are "
        "binned too; set movie.pixel_size"
    )
    assert by_serialem(movie(4096, 4096), Binning=2) == (1.25, "sidecar", [expected])
    assert by_serialem(movie(4096, 4096, 1.25), Binning=2) == (1.25, "sidecar", [])
    assert by_serialem(movie(4096, 4096, 0.625), Binning=2) == (
        0.625,
        "header",
        ["pixel_size: header says 0.625, sidecar says 1.25"],
    )


@pytest.mark.parametrize(
    ("size", "image", "pixel_size", "rule"),
    [
        ((4096, 4096), "2048 2048", 0.625, "sidecar, scaled"),
        ((4000, 3000), "1000 744", 0.3125, "sidecar, scaled"),  # SerialEM cut 24 lines off
        ((4000, 3000), "4000 3000", 1.25, "sidecar"),
    ],
)
def test_the_size_of_serialems_image_tells_it_too(size, image, pixel_size, rule):
    assert by_serialem(movie(*size), ImageSize=image, Binning=1) == (pixel_size, rule, [])


def test_serialems_refined_value_is_a_second_opinion():
    told = {"RefinedPixelSpacing": 1.31}
    assert by_serialem(movie(4096, 4096), **told) == (
        1.25,
        "sidecar",
        ["pixel_size: sidecar says 1.25, its RefinedPixelSpacing says 1.31"],
    )
    assert by_serialem(movie(4096, 4096, 1.31), **told) == (
        1.31,
        "header",
        ["pixel_size: header says 1.31, sidecar says 1.25"],
    )
    assert by_serialem(movie(4096, 4096), RefinedPixelSpacing=1.251) == (1.25, "sidecar", [])
