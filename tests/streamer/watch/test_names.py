"""Which rule leaves a name out, in words; whatever is left out so is counted."""

import pytest

from streamer.watch.names import name_rule
from streamer.watch.scan import scan
from streamer.watch.settings import WatchSettings

EPU_IMAGE = "FoilHole_30135833_Data_30102171_30102173_20240101_000000"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        # content decides
        ("Lgain_cell_001.tif", None),
        ("defective-mutant_07.tif", None),
        ("gain.mrc", None),
        ("a.eer", None),
        # copies under way, by what they will be called
        ("a.tif.tmp", 'watch.exclude "*.tmp"'),
        ("a.mrc.part", 'watch.exclude "*.part"'),
        (".a.mrc", 'watch.exclude ".*"'),
        ("notes.tmp", ""),
        (".DS_Store", ""),
        # images of other kinds, so that a session of them does not look empty
        ("LMM.map", 'not in watch.include: "*.map"'),
        ("a.mrc.gz", 'not in watch.include: "*.gz"'),
        ("ts.st", 'not in watch.include: "*.st"'),
        ("x.gain", "gain references"),
        ("CountRef_x.dm4", "gain references"),
        # DigitalMicrograph saves movies so too
        ("insitu_movie.dm4", 'not in watch.include: "*.dm4"'),
        ("a.emd", 'not in watch.include: "*.emd"'),
        ("a.tif.filepart", 'not in watch.include: "*.filepart"'),
        ("a.eer.bak", 'not in watch.include: "*.bak"'),
        ("notes.bak", ""),
        # sidecars, pictures, texts
        ("a.tif.mdoc", ""),
        ("a.xml", ""),
        ("a.jpg", ""),
    ],
)
def test_rules(name, rule):
    assert name_rule(name, WatchSettings()) == rule


@pytest.mark.parametrize("pattern", ["*gain*", "*2024*", "a_*"])
def test_what_the_user_excludes_is_binding_and_counted(pattern):
    settings = WatchSettings(exclude=(".*", pattern))
    assert name_rule("a_gain_2024.tif", settings) == f'watch.exclude "{pattern}"'
    assert name_rule("b.tif", settings) is None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a_fractions.tiff", None),
        ("a.eer", 'not in watch.include: "*.eer"'),
        ("a_fractions.mrc", 'not in watch.include: "*.mrc"'),
        ("b.tiff", 'not in watch.include: "*.tiff"'),
        ("a.xml", ""),
    ],
)
def test_movies_of_a_kind_that_is_not_included_are_counted(name, rule):
    assert name_rule(name, WatchSettings(include=("*_fractions.tiff",))) == rule
    assert name_rule(name, WatchSettings()) in (None, "")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (f"{EPU_IMAGE}.mrc", "integrated images (EPU)"),
        (f"{EPU_IMAGE}.tiff", "integrated images (EPU)"),
        ("GridSquare_30102052.mrc", "integrated images (EPU)"),
        (f"{EPU_IMAGE}_fractions.tiff", None),
        (f"{EPU_IMAGE}_EER.eer", None),
        # not EPU's names: what somebody else put there
        (f"{EPU_IMAGE}_frames.mrc", None),
        ("movie_001.tif", None),
    ],
)
def test_images_that_epu_writes_beside_each_movie_are_left_out_in_its_own_tree_only(name, rule):
    assert name_rule(name, WatchSettings(), in_epu_tree=True) == rule
    assert name_rule(name, WatchSettings()) is None


def test_a_scan_counts_what_it_leaves_out(tmp_path):
    disc = tmp_path / "Images-Disc1" / "GridSquare_1" / "Data"
    disc.mkdir(parents=True)
    for number in range(3):
        (disc / f"FoilHole_{number}_Data_2_3_20240101_000000.mrc").write_bytes(b"x")
        (disc / f"FoilHole_{number}_Data_2_3_20240101_000000_fractions.tiff").write_bytes(b"x")
        (tmp_path / f"{number}.mrc.tmp").write_bytes(b"x")
    (tmp_path / "gain.gain").write_bytes(b"x")
    (tmp_path / "again_1.tif").write_bytes(b"x")
    listing = scan(tmp_path, WatchSettings())
    assert len(listing.files) == 4
    assert listing.skips.counts == {
        "integrated images (EPU)": 3,
        'watch.exclude "*.tmp"': 3,
        "gain references": 1,
    }
