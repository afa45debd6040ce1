import os

import pytest

from streamer.metadata import epu
from streamer.watch.scan import Listing, is_movie_name, look_again, scan
from streamer.watch.settings import WatchSettings

EPU = "Images-Disc1/GridSquare_1/Data/FoilHole_1_Data_2_3_20240101_000000"


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root, **settings):
    return sorted(scan(root, WatchSettings(root=str(root), **settings)).files)


@pytest.mark.parametrize(
    ("name", "is_movie"),
    [
        ("a.mrc", True),
        ("a.MRC", True),
        ("a.mrcs", True),
        ("a.tif", True),
        ("a.TIFF", True),
        ("x_0001_X+1Y-1-2_12.34.56.tif", True),
        ("a.tif.mdoc", False),
        ("a.xml", False),
        ("a.eer", True),
        (".a.mrc", False),
        ("a.mrc.tmp", False),
        ("a.tif.part", False),
        ("a.tif.downloading", False),
        ("CountRef_x.mrc", True),
        ("CountCDSRef_x.mrc", True),
        ("SuperRef_x.tif", True),
        ("my_gain.mrc", True),
        ("defects_a.tif", True),
        ("a.gain", False),
    ],
)
def test_names_of_what_may_be_a_movie(name, is_movie):
    """Of the others the content decides."""
    assert is_movie_name(name, WatchSettings()) is is_movie


def test_include_and_exclude_are_settings():
    settings = WatchSettings(include=("*_frames.MRC",), exclude=("bad*",))
    assert is_movie_name("good_FRAMES.mrc", settings)
    assert not is_movie_name("Bad_frames.mrc", settings)
    assert not is_movie_name("a.tif", settings)
    assert not is_movie_name("a.tif", WatchSettings(include=()))


def test_the_whole_tree_is_listed(tmp_path):
    make(tmp_path, "a.tif", "b/c/d.mrc", "New folder/e f.mrcs", "b/notes.txt")
    assert found(tmp_path) == ["New folder/e f.mrcs", "a.tif", "b/c/d.mrc"]
    identity = scan(tmp_path, WatchSettings()).files["a.tif"]
    status = (tmp_path / "a.tif").stat()
    assert (identity.size, identity.mtime_ns, identity.inode) == (1, status.st_mtime_ns, status.st_ino)


def test_epu_writes_integrated_images_beside(tmp_path):
    make(
        tmp_path,
        f"{EPU}_fractions.tiff",
        f"{EPU}_Fractions.mrc",
        f"{EPU}.mrc",
        "Images-Disc1/GridSquare_1/GridSquare_2024.mrc",
        "Images-Disc1/atlas.mrc",
        "serialem/a.mrc",
    )
    inside = [name for name in found(tmp_path) if name.startswith("Images-Disc1/GridSquare_1/")]
    assert inside == [f"{EPU}_Fractions.mrc", f"{EPU}_fractions.tiff"]
    assert "serialem/a.mrc" in found(tmp_path)
    # The same when the watched root is itself part of the tree.
    assert found(tmp_path / "Images-Disc1" / "GridSquare_1" / "Data") == sorted(
        name.rpartition("/")[2] for name in inside
    )


def test_only_regular_files_and_no_links(tmp_path):
    make(tmp_path / "root", "a.tif")
    make(tmp_path / "outside", "b.tif")
    root = tmp_path / "root"
    os.mkfifo(root / "fifo.tif")
    (root / "link.tif").symlink_to(root / "a.tif")
    (root / "directory.tif").mkdir()
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    assert found(root) == ["a.tif"]
    (tmp_path / "root_link").symlink_to(root)
    assert found(tmp_path / "root_link") == ["a.tif"]


def test_hidden_directories_are_not_entered(tmp_path):
    make(tmp_path, ".snapshot/hourly/a.tif", "$RECYCLE.BIN/b.tif", "c.tif")
    assert found(tmp_path) == ["c.tif"]


def test_names_are_bytes(tmp_path):
    for name in (b"new\nline.tif", b"esc\x1b[31m.tif", b"\xff\xfe.tif", "ü".encode() + b".tif"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):  # noqa: PTH118, PTH123
            pass
    assert len(found(tmp_path)) == 4


def test_a_missing_root_is_said_not_raised(tmp_path):
    assert scan(tmp_path / "absent", WatchSettings()) == Listing({}, set(), root_missing=True)
    (tmp_path / "file").write_bytes(b"")
    assert scan(tmp_path / "file", WatchSettings()).root_missing
    assert scan(tmp_path, WatchSettings()) == Listing({}, set())


def test_directories_may_vanish_during_the_scan(tmp_path, monkeypatch):
    make(tmp_path, "a/x.tif", "b/y.tif", "c.tif")
    genuine = os.scandir

    def vanishing(path):
        if os.readlink(f"/proc/self/fd/{path}").endswith("/b"):  # noqa: PTH115
            raise FileNotFoundError(path)
        return genuine(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert found(tmp_path) == ["a/x.tif", "c.tif"]


def test_look_again_gives_the_same_as_a_scan(tmp_path):
    make(tmp_path, "a/x.tif", "b.tif")
    listing = scan(tmp_path, WatchSettings())
    assert look_again(tmp_path, listing.files) == listing
    (tmp_path / "b.tif").unlink()
    (tmp_path / "b.tif").symlink_to(tmp_path / "a" / "x.tif")
    assert sorted(look_again(tmp_path, [*listing.files, "absent.tif"]).files) == ["a/x.tif"]


def test_a_directory_that_became_a_link_hides_what_lay_in_it(tmp_path):
    root = tmp_path / "root"
    make(root, "a/b/x.tif", "a/y.tif", "c.tif")
    listing = scan(root, WatchSettings())
    for place in ("a/b", "a"):
        (root / place).rename(tmp_path / place.replace("/", "-"))
        (root / place).symlink_to(tmp_path / place.replace("/", "-"))
        left = sorted(name for name in listing.files if not name.startswith(f"{place}/"))
        assert sorted(look_again(root, listing.files).files) == found(root) == left
    (tmp_path / "root_link").symlink_to(root)
    assert sorted(look_again(tmp_path / "root_link", listing.files).files) == ["c.tif"]


def test_a_directory_that_becomes_a_link_during_the_scan_is_not_followed(tmp_path, monkeypatch):
    root, outside = tmp_path / "root", tmp_path / "outside"
    make(root, "a/x.tif", "c.tif")
    make(outside, "secret.tif")
    genuine = epu.is_in_tree

    def swap(parts):
        # asked between the moment at which a directory is found and that at which it is listed
        if parts[-1] == "a":
            (root / "a").rename(tmp_path / "moved")
            (root / "a").symlink_to(outside)
        return genuine(parts)

    monkeypatch.setattr(epu, "is_in_tree", swap)
    assert found(root) == ["c.tif"]
