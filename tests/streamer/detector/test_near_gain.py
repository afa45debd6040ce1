"""Which files are gain references, by their content; and that a near one that cannot be read is never passed over."""

import os
import struct

import numpy as np
import pytest
import tifffile

from streamer.detector.gain_choice import GainChoice
from streamer.errors import ConfigError, MovieNotReady
from streamer.readers.gain import gain_candidates, gains_in, read_gain
from streamer.simulation.microscope import encode
from streamer.writers.mrc import encode_image
from tests.clocks import AskedClock

RNG = np.random.default_rng(11)
FRAMES = RNG.poisson(0.8, (5, 32, 40)).astype(np.uint8)
GAIN = np.clip(RNG.normal(1.0, 0.08, (32, 40)), 0.1, None).astype(np.float32)
MICROGRAPH = RNG.normal(30.0, 5.0, (32, 40)).astype(np.float32)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def gain_mrc(values=GAIN):
    return encode_image(values, pixel_size=1.0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "day1").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def choose(root, tmp_path):
    def choice(*, allowed=(), movie="day1/m.tif", named=None):
        places = tuple(str(tmp_path / name) for name in allowed)
        return GainChoice(root, None, AskedClock(lambda: 0.0), places).for_movie(root / movie, named)

    return choice


# ----------------------------------------------------------------------------------------------------------- by content


@pytest.mark.parametrize("kind", ["mrc", "tiff", "eer"])
@pytest.mark.parametrize("name", ["gain_cell_001", "my_gain", "CountRef_1", "Lgain_1", "regain-2"])
def test_a_movie_is_no_reference_whatever_its_name(root, choose, name, kind):
    suffix = "tif" if kind == "eer" else kind[:3]
    put(root / "day1" / f"{name}.{suffix}", encode(FRAMES, kind, 1.0))
    assert choose() is None
    gain = put(root / "day1" / "gain.mrc", gain_mrc())
    assert choose() == gain


@pytest.mark.parametrize(
    "name", ["gain.mrc", "Lgain.mrc", "K3regain.mrc", "20240101-ref.mrc", "flatfield.mrc", "SuperRef_x.mrc"]
)
def test_one_image_of_floats_around_one_is_a_reference_under_any_such_name(root, choose, name):
    assert choose() is None
    gain = put(root / "day1" / name, gain_mrc())
    assert choose() == gain


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("again_DW.mrc", gain_mrc(MICROGRAPH)),
        ("regained.mrc", gain_mrc(RNG.normal(0.0, 1.0, (32, 40)).astype(np.float32))),
        ("ref.mrc", gain_mrc(RNG.poisson(1.0, (32, 40)).astype(np.float32))),
        ("flat.mrc", encode(FRAMES[:1], "mrc", 1.0)),
        ("gauge.mrc", gain_mrc()),
    ],
)
def test_one_image_of_something_else_is_none_unless_it_is_called_a_gain(root, choose, name, content):
    put(root / "day1" / name, content)
    assert choose() is None


def test_the_first_frame_of_a_movie_that_is_called_so_is_none(root, choose):
    """It is being written: as long as it has one frame, it looks like a reference."""
    for number in range(3):
        put(root / "day1" / f"gain_cell_{number:03}_Dec01_12.00.0{number}.tif", encode(FRAMES, "tiff", 1.0))
    growing = put(root / "day1" / "gain_cell_003_Dec01_12.00.03.tif", encode(FRAMES[:1], "tiff", 1.0))
    assert choose() is None
    gain = put(root / "day1" / "gain.tif", b"")
    tifffile.imwrite(gain, GAIN, metadata=None)
    assert choose() == gain
    growing.write_bytes(encode(FRAMES, "tiff", 1.0))
    assert choose() == gain


def test_a_candidate_that_grows_into_a_movie_is_seen_although_its_directory_does_not_change(root):
    choice = GainChoice(root, None, AskedClock(lambda: 0.0))
    path = put(root / "day1" / "gain_x.tif", encode(FRAMES[:1], "tiff", 1.0))
    os.utime(path.parent, (1, 1))
    assert choice.for_movie(root / "day1" / "m.tif") == path
    path.write_bytes(encode(FRAMES, "tiff", 1.0))
    os.utime(path.parent, (1, 1))
    assert choice.for_movie(root / "day1" / "m.tif") is None


def test_a_stack_of_imagej_with_one_directory_is_no_reference(root, choose):
    tifffile.imwrite(root / "day1" / "gain_big.tif", FRAMES, imagej=True)
    data = bytearray((root / "day1" / "gain_big.tif").read_bytes())
    with tifffile.TiffFile(root / "day1" / "gain_big.tif") as file:
        first = file.pages[0].offset
        assert "images=5" in file.pages[0].description
    (n_entries,) = struct.unpack_from("<H" if data[:2] == b"II" else ">H", data, first)
    data[first + 2 + 12 * n_entries : first + 6 + 12 * n_entries] = bytes(4)  # no other directory
    (root / "day1" / "gain_big.tif").write_bytes(data)
    with tifffile.TiffFile(root / "day1" / "gain_big.tif") as file:
        assert len(file.pages) == 1
    assert choose() is None


def test_references_in_integers_stay_references(root, choose):
    gain = put(root / "day1" / "gain_a.mrc", encode(np.ones((1, 32, 40), np.uint8), "mrc", 1.0))
    assert choose() == gain
    put(root / "day1" / "gain_b.mrc", encode(np.ones((1, 32, 40), np.uint8), "mrc", 1.0))
    with pytest.raises(ConfigError, match="several"):
        choose()


# ----------------------------------------------------------------------------------------------- near, unreadable


def another_sessions(root):
    """One that lies above, and one elsewhere: both would be taken where nothing is near."""
    return put(root / "gain.mrc", gain_mrc()), put(root / "day2" / "gain.mrc", gain_mrc())


@pytest.mark.parametrize("content", [b"", b"x" * 500, gain_mrc()[:2000], b"II*\0" + bytes(100), b"\0" * 4000])
def test_a_near_one_that_is_empty_or_damaged_or_half_there_is_not_passed_over(root, choose, content):
    another_sessions(root)
    near = put(root / "day1" / "gain.mrc", content)
    assert choose() == near  # whoever reads it says what is wrong, and the movie waits
    with pytest.raises((ConfigError, MovieNotReady), match=str(near)):
        read_gain(near)


@pytest.mark.parametrize("target", ["{outside}/gain.mrc", "../../outside/gain.mrc", "nowhere.mrc", "gain.mrc"])
def test_a_near_one_that_is_a_link_that_is_not_followed_is_said(root, choose, tmp_path, target):
    another_sessions(root)
    put(tmp_path / "outside" / "gain.mrc", gain_mrc())
    (root / "day1" / "gain.mrc").symlink_to(target.format(outside=tmp_path / "outside"))
    with pytest.raises(
        ConfigError, match=r"day1/gain\.mrc: the gain reference is a link that is not followed"
    ) as error:
        choose()
    assert "watch.follow_links_to" in str(error.value)


@pytest.mark.parametrize("target", ["{outside}/gain.mrc", "../../outside/gain.mrc", "../refs/x.mrc"])
def test_a_near_one_that_is_a_link_that_is_followed_is_used(root, choose, tmp_path, target):
    put(tmp_path / "outside" / "gain.mrc", gain_mrc())
    put(root / "refs" / "x.mrc", gain_mrc())
    link = root / "day1" / "gain.mrc"
    link.symlink_to(target.format(outside=tmp_path / "outside"))
    assert choose(allowed=("outside",)) == link


def test_a_link_to_one_beside_it_is_the_same_one(root, choose):
    gain = put(root / "day1" / "gain_1.mrc", gain_mrc())
    (root / "day1" / "gain.mrc").symlink_to("gain_1.mrc")
    assert choose() == gain
    assert gains_in(root / "day1") == [root / "day1" / "gain.mrc", gain] or gains_in(root / "day1") == [gain]


def test_the_gain_beside_what_a_linked_movie_leads_to(root, choose, tmp_path):
    put(root / "day2" / "gain.mrc", gain_mrc())
    gain = put(tmp_path / "raw" / "s1" / "gain.mrc", gain_mrc())
    put(tmp_path / "raw" / "s1" / "m.mrc", encode(FRAMES, "mrc", 1.0))
    (root / "day1" / "m.mrc").symlink_to(tmp_path / "raw" / "s1" / "m.mrc")
    assert choose(allowed=("raw",), movie="day1/m.mrc") == gain
    (root / "linked").symlink_to(tmp_path / "raw" / "s1")
    assert choose(allowed=("raw",), movie="linked/m.mrc") == root / "linked" / "gain.mrc"


def test_a_directory_that_is_a_link_that_is_not_followed_is_not_searched(root, choose, tmp_path):
    put(root / "gain.mrc", gain_mrc())
    put(tmp_path / "secret" / "gain.mrc", gain_mrc())
    (root / "swapped").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="cannot be searched for gain references"):
        choose(movie="swapped/m.mrc")


def test_one_that_may_not_be_read_is_said(root, choose, monkeypatch):
    another_sessions(root)
    near = put(root / "day1" / "gain.mrc", gain_mrc())
    genuine = os.open

    def forbidden(path, flags, *arguments, **options):
        if str(path) in ("gain.mrc", str(near)) and "day1" in str(near) and not flags & os.O_PATH:
            raise PermissionError(13, "Permission denied", str(path))
        return genuine(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", forbidden)
    assert choose() == near
    with pytest.raises((ConfigError, MovieNotReady), match="Permission denied"):
        read_gain(near)


def test_the_header_of_a_stack_decides_before_it_is_whole(root, choose):
    data = bytearray(encode(FRAMES, "mrc", 1.0))
    put(root / "day1" / "gain_cell.mrc", bytes(data[:3000]))
    assert choose() is None
    struct.pack_into("<i", data, 8, 1)
    put(root / "day1" / "gain_cell.mrc", bytes(data[:1100]))
    assert choose() == root / "day1" / "gain_cell.mrc"


# ------------------------------------------------------------------------------------------- pictures, links in circles


@pytest.mark.parametrize("marked", [True, False])
def test_a_reference_with_a_small_picture_of_it_behind_it_is_one(root, choose, marked):
    with tifffile.TiffWriter(root / "day1" / "gain_1.tif") as file:
        file.write(GAIN)
        file.write(np.ones((8, 10), np.uint8), subfiletype=1 if marked else 0)
    assert choose() == root / "day1" / "gain_1.tif"
    assert read_gain(choose()).values.shape == GAIN.shape


def test_a_link_to_the_root_does_not_name_references_anew(root, tmp_path):
    gain = put(root / "day2" / "gain.mrc", gain_mrc())
    hidden = put(root / ".calibration" / "gain.mrc", gain_mrc(GAIN * 1.1))
    (root / "all").symlink_to(root)
    (root / "twin").symlink_to(root / "day2")
    assert gain_candidates(root) == [gain]
    (root / "calibration").symlink_to(hidden.parent)
    assert gain_candidates(root) == [root / "calibration" / "gain.mrc", gain]
