"""Stacks that a list beside them, or their values, tell from movies; and movies with such neighbours."""

import struct

import numpy as np
import pytest

from tests.streamer.watch.test_kinds import BOXES, FRAMES, judged, mrc, tiff  # noqa: F401 - a fixture

TILTS = "".join(f"{3 * index - 12:6.2f}\n" for index in range(8))
PIECES = "".join(f"{60 * (index % 4):6d}{40 * (index // 4):6d}     0\n" for index in range(8))
ARETOMO = "# AreTomo Alignment / Priims bprmMn \n# RawSize = 64 48 {n}\n# NumPatches = 0\n"
STACK = mrc(FRAMES.astype(np.int16))
SLICES = np.random.default_rng(3).normal(0.0, 1.0, (40, 48, 64)).astype(np.float32)


def without_statistics(content, smallest=0.0, largest=-1.0, mean=-2.0):
    header = bytearray(content[:1024])
    struct.pack_into("<3f", header, 76, smallest, largest, mean)
    struct.pack_into("<f", header, 216, -1.0)
    return bytes(header) + content[1024:]


@pytest.mark.parametrize(
    ("name", "content", "beside", "kind"),
    [
        ("ts.mrc", STACK, {"ts.rawtlt": TILTS}, "tilt series"),
        ("ts.mrc", STACK, {"ts.tlt": TILTS}, "tilt series"),
        ("ts.tif", tiff(FRAMES), {"ts.rawtlt": TILTS}, "tilt series"),
        ("ts.mrc", STACK, {"ts.aln": ARETOMO.format(n=8)}, "tilt series"),
        ("ts.mrc", STACK, {"ts.mrc.aln": ARETOMO.format(n=8)}, "tilt series"),
        ("map.mrc", STACK, {"map.pl": PIECES}, "montages"),
        # neighbours: another number of lines, one tilt, one place, no numbers at all, a list of another file
        ("ts.mrc", STACK, {"ts.rawtlt": TILTS + "15\n"}, None),
        ("ts.mrc", STACK, {"ts.rawtlt": "30.0\n" * 8}, None),
        ("ts.mrc", STACK, {"ts.rawtlt": "nan\n" * 8}, None),
        ("ts.mrc", STACK, {"ts.rawtlt": "tilts\n" * 8, "ts.pl": "0 0 0\n" * 8}, None),
        ("ts.mrc", STACK, {"other.rawtlt": TILTS}, None),
        ("m.mrc", STACK, {"m.aln": ARETOMO.format(n=41)}, None),
        ("m.mrc", STACK, {"m.aln": "# MotionCor3\nstackSize: 64 48 8\n"}, None),
    ],
)
def test_lists_with_a_line_for_each_image(judged, name, content, beside, kind):  # noqa: F811
    assert judged(name, content, beside=beside) == kind


def test_a_movie_that_its_sidecar_counts_is_one_whatever_lies_beside_it(judged):  # noqa: F811
    assert judged("a.mrc", STACK, beside={"a.rawtlt": TILTS}, told=8) is None


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("TS_01_rec.mrc", mrc(SLICES), "volumes"),
        ("Position_1_Vol.mrc", mrc(SLICES), "volumes"),
        ("reconstruction/TS_01_10.00Apx.mrc", mrc(SLICES), "volumes"),
        ("tomograms/t1.mrc", without_statistics(mrc((100 * SLICES).astype(np.int16))), "volumes"),
        # counts, few images, and names that only hold such a word
        ("a_rec.mrc", mrc(np.abs(SLICES)), None),
        ("a_rec.mrc", mrc(SLICES[:8]), None),
        ("recording_01.mrc", mrc(SLICES), None),
        ("record/a.mrc", mrc(SLICES), None),
    ],
)
def test_tomograms_by_name_and_densities_below_zero(judged, name, content, kind):  # noqa: F811
    assert judged(name, content) == kind


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("J12_class_averages.mrc", mrc(BOXES), "particle images"),
        ("templates_selected.mrc", mrc(BOXES), "particle images"),
        ("a.mrcs", without_statistics(mrc(BOXES)), "particle images"),
        ("a.mrcs", without_statistics(mrc(BOXES.astype(np.float16)), 0.0, 0.0, 0.0), "particle images"),
        ("a.mrcs", without_statistics(mrc(np.abs(BOXES))), None),
        ("class.mrc", mrc(BOXES), None),
    ],
)
def test_boxes_whose_writer_did_not_fill_in_their_statistics(judged, name, content, kind):  # noqa: F811
    assert judged(name, content) == kind


def test_directories_above_the_root_decide_nothing(tmp_path):
    from streamer.readers.movie import read_header
    from streamer.watch.kinds import why_no_movie

    root = tmp_path / "particles" / "tomograms"
    root.mkdir(parents=True)
    for name, content in (("a.mrc", mrc(BOXES)), ("b.mrc", mrc(SLICES))):
        (root / name).write_bytes(content)
        assert why_no_movie(root / name, read_header(root / name), root=root) is None
