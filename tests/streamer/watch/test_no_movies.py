"""When a file is declared to be no movie: not before it has had the time to become one."""

import struct

import numpy as np
import pytest
import tifffile

from streamer.errors import MovieNotReady, MovieUnsupported, NotAMovie
from streamer.simulation.microscope import encode
from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher
from tests.faults.test_writers import Timeline

SETTINGS = WatchSettings()
FRAMES = np.random.default_rng(5).poisson(1.0, (6, 48, 48)).astype(np.uint8)
XML = (
    '<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects">'
    "<microscopeData><acquisition><camera><CameraSpecificInput "
    'xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays"><a:KeyValueOfstringanyType>'
    "<a:Key>FractionationSettings</a:Key><a:Value><NumberOffractions>6</NumberOffractions></a:Value>"
    "</a:KeyValueOfstringanyType></CameraSpecificInput></camera></acquisition></microscopeData></MicroscopeImage>"
)


def watched(root, script=(), end=200.0):
    timeline = Timeline(list(script), end)
    watcher = Watcher(WatchSettings(root=str(root), polling="always"), clock=timeline)
    return [(timeline.now, arrival) for arrival in watcher.arrivals(timeline)]


@pytest.mark.parametrize("kind", ["mrc", "tiff"])
def test_one_image_waits_for_its_other_frames(tmp_path, kind):
    (tmp_path / f"a.{kind}").write_bytes(encode(FRAMES[:1], kind, 2.0))
    ((when, arrival),) = watched(tmp_path)
    assert isinstance(arrival.error, NotAMovie)
    assert arrival.error.kind == "single images"
    assert SETTINGS.unproven_wait_s <= when <= SETTINGS.unproven_wait_s + 2.0


@pytest.mark.parametrize("pause_s", [3.0, 20.0, 50.0])
@pytest.mark.parametrize("kind", ["mrc", "tiff"])
def test_a_movie_that_grows_frame_by_frame_is_never_taken_for_one_image(tmp_path, kind, pause_s):
    """Each state is a valid shorter file: the MRC header is rewritten, the TIFF gets another page."""
    path = tmp_path / "a.mrc"

    def write(n):
        path.write_bytes(encode(FRAMES[:n], kind, 2.0))

    found = watched(tmp_path, [(1.0 + pause_s * n, lambda n=n: write(n + 1)) for n in range(6)], end=2000.0)
    assert not [arrival for _, arrival in found if isinstance(arrival.error, NotAMovie)]
    assert found[-1][1].header.n_frames == 6


def test_what_was_one_image_and_grew_after_all_is_a_movie(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_bytes(encode(FRAMES[:1], "mrc", 2.0))
    (_, first), (_, second) = watched(
        tmp_path, [(100.0, lambda: path.write_bytes(encode(FRAMES, "mrc", 2.0)))], end=400.0
    )
    assert isinstance(first.error, NotAMovie)
    assert (second.error, second.header.n_frames) == (None, 6)


@pytest.mark.parametrize("at", [0.0, 4.0, 9.0])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ts.mrc.mdoc", "Voltage = 300\n" + "".join(f"[ZValue = {n}]\nTiltAngle = {3 * n}\n" for n in range(6))),
        ("ts.rawtlt", "".join(f"{3 * n}\n" for n in range(6))),
    ],
)
def test_what_tells_the_kind_may_come_while_the_file_waits(tmp_path, name, text, at):
    (tmp_path / "ts.mrc").write_bytes(encode(FRAMES, "mrc", 2.0))
    ((_, arrival),) = watched(tmp_path, [(at, lambda: (tmp_path / name).write_text(text))])
    assert isinstance(arrival.error, NotAMovie)
    assert arrival.error.kind == "tilt series"


def test_a_list_that_comes_beside_a_movie_changes_nothing(tmp_path):
    (tmp_path / "a.mrc").write_bytes(encode(FRAMES, "mrc", 2.0))
    ((_, arrival),) = watched(tmp_path, [(4.0, lambda: (tmp_path / "a.rawtlt").write_text("0\n" * 5))])
    assert arrival.error is None


def test_epus_integrated_image_is_none_although_the_xml_of_its_exposure_counts_frames(tmp_path):
    stem = "FoilHole_1_Data_2_3_20240101_000000"
    (tmp_path / f"{stem}.xml").write_text(XML)
    (tmp_path / f"{stem}.mrc").write_bytes(encode(FRAMES[:1], "mrc", 2.0))
    (tmp_path / f"{stem}_Fractions.mrc").write_bytes(encode(FRAMES, "mrc", 2.0))
    found = {arrival.movie.relative: arrival.error for _, arrival in watched(tmp_path)}
    assert found[f"{stem}_Fractions.mrc"] is None
    assert found[f"{stem}.mrc"].kind == "integrated images (EPU)"


def test_a_movie_whose_sidecar_promises_more_than_its_first_frame_is_not_given_up_so(tmp_path):
    (tmp_path / "a.tif").write_bytes(encode(FRAMES[:1], "tiff", 2.0))
    (tmp_path / "a.tif.mdoc").write_text("[FrameSet = 0]\nNumSubFrames = 6\n")
    assert watched(tmp_path) == []
    ((_, arrival),) = watched(tmp_path, end=2000.0)
    assert isinstance(arrival.error, MovieNotReady)


def test_a_tilt_series_is_said_to_be_one_whatever_is_wrong_with_its_header(tmp_path):
    mdoc = "".join(f"[ZValue = {n}]\nTiltAngle = {3 * n}\n" for n in range(6))
    data = bytearray(encode(FRAMES, "mrc", 2.0))
    (tmp_path / "whole.mrc").write_bytes(data)
    struct.pack_into("<i", data, 12, 4)  # complex numbers
    (tmp_path / "odd.mrc").write_bytes(data)
    for name in ("whole", "odd"):
        (tmp_path / f"{name}.mrc.mdoc").write_text(mdoc)
    errors = [arrival.error for _, arrival in watched(tmp_path)]
    assert [error.kind for error in errors] == ["tilt series"] * 2
    assert all("6 images" in str(error) for error in errors)


def test_a_reference_that_no_reader_can_read_is_no_failed_movie(tmp_path):
    tifffile.imwrite(tmp_path / "defects_map.tif", np.zeros((64, 64), np.uint8), tile=(16, 16))
    tifffile.imwrite(tmp_path / "movie_001.tif", np.zeros((6, 64, 64), np.uint8), tile=(16, 16))
    found = {arrival.movie.relative: arrival.error for _, arrival in watched(tmp_path)}
    assert found["defects_map.tif"].kind == "defect maps"
    assert isinstance(found["movie_001.tif"], MovieUnsupported)


def test_small_boxes_are_told_from_movies_once_the_session_has_some(tmp_path):
    """Stacks of integers, in a directory of their own, with nothing else that says what they are."""
    for number in range(4):
        (tmp_path / f"m{number}.mrc").write_bytes(encode(FRAMES, "mrc", 2.0))
    (tmp_path / "stack.mrc").write_bytes(encode(FRAMES[:, :12, :12], "mrc", 2.0))
    script = [(50.0, lambda: (tmp_path / "late.mrc").write_bytes(encode(FRAMES[:, :12, :12].copy(), "mrc", 2.0)))]
    found = {arrival.movie.relative: arrival.error for _, arrival in watched(tmp_path, script)}
    assert found["late.mrc"].kind == "frames much smaller than the session's"
    assert all(found[f"m{number}.mrc"] is None for number in range(4))


def test_a_name_with_gain_in_it_holds_nothing_up(tmp_path):
    for name in ("again_1.mrc", "Lgain_cell_001.mrc", "gain_003.mrc", "defective.mrc", "bargain/CountRef_7.mrc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(FRAMES, "mrc", 2.0))
    (tmp_path / "gain.mrc").write_bytes(encode(FRAMES[:1], "mrc", 2.0))
    found = {arrival.movie.relative: arrival.error for _, arrival in watched(tmp_path)}
    assert found.pop("gain.mrc").kind == "gain references"
    assert set(found.values()) == {None}
    assert len(found) == 5
