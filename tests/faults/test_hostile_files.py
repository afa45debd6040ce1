"""F3: cut, damaged and hostile files end in an error of ours, soon and within bounded memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from streamer.simulation.eer_encoder import encode_eer
from tests.faults.writer_models import FORMATS, N_FRAMES, material, mrc_head, tiff_states

ROOT = Path(__file__).parents[2]
LONGEST_S = 2.0
Listed = tuple[str, Path, int | None]


def read_in_child(listed: list[Listed], directory: Path) -> list[dict]:
    """What came of each file, read in a process of its own; a process that dies gives fewer results."""
    order = directory / "files.json"
    order.write_text(json.dumps([(kind, str(path), told) for kind, path, told in listed]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.reading_child", str(order)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(listed)
    return results


def summary(results: list[dict]) -> str:
    """Slowest and largest."""
    slowest = max(result["seconds"] for result in results)
    return f"slowest {slowest:.2f} s, {max(result['rss'] for result in results) / 2**20:.0f} MiB at most"


def check(results: list[dict]) -> None:
    """Only errors of ours, none of them late."""
    assert [r for r in results if r["outcome"] == "uncaught"] == []
    assert [r for r in results if r["seconds"] > LONGEST_S] == []


def written(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_movie_is_never_read_as_a_whole_one(kind, tmp_path, often, report):
    """With what tells the number of frames: the header, the metadata or, for TIFF, a sidecar."""
    n, rng, listed = often(20, 200), np.random.default_rng(11), []
    told = N_FRAMES if kind == "tif" else None
    for number in range(n):
        data = material(kind, rng, proven=True).finished
        path = written(tmp_path, f"{number}.{kind}", data[: int(rng.integers(0, len(data)))])
        listed.append(("movie", path, told))
    results = read_in_child(listed, tmp_path)
    read = [result for result in results if result["outcome"] == "read"]
    figure = f"{len(read)} read, {sum(r['outcome'] == 'uncaught' for r in results)} uncaught; {summary(results)}"
    report("F3", f"{kind} cut", n=n, figure=figure, target="0 read, 0 uncaught, <= 2 s")
    check(results)
    assert read == []


def test_flipped_bits_never_change_the_number_of_frames(tmp_path, often, report):
    n, rng, listed, told = often(100, 2000), np.random.default_rng(12), [], {}
    for number in range(n):
        kind = FORMATS[number % 3]
        data = bytearray(material(kind, rng, proven=True).finished)
        # half of them where the structure is thickest: at the beginning
        last = len(data) if rng.random() < 0.5 else min(len(data), 1024)
        for place in rng.integers(0, 8 * last, int(rng.integers(1, 4))):
            data[place // 8] ^= 1 << (place % 8)
        path = written(tmp_path, f"{number}.{kind}", bytes(data))
        listed += [(("movie", "streamed")[number % 2], path, N_FRAMES), ("movie", path, None)]
        told[str(path)] = N_FRAMES
    results = read_in_child(listed, tmp_path)
    wrong = [r for r in results if r["outcome"] == "read" and r["n_frames"] != N_FRAMES]
    with_sidecar = [r for r in wrong if r["told"] is not None]
    proven = [r for r in wrong if not r["path"].endswith(".tif")]
    outcomes = Counter(r["outcome"] for r in results if r["told"] is not None)
    figure = f"{len(with_sidecar)} read with another number of frames (TIFF without sidecar: {len(wrong)}), "
    figure += f"{outcomes['uncaught']} uncaught, {outcomes['read']} read with other pixels; {summary(results)}"
    report("F3", "1 to 3 bits flipped, with a sidecar", n=n, figure=figure, target="0, 0 uncaught, <= 2 s")
    check(results)
    assert with_sidecar == []
    assert proven == []


def patched(data: bytes, letter: str, offset: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(f"<{letter}", changed, offset, value)
    return bytes(changed)


def one_page(strip: bytes, height: int, width: int, compression: int, counts: int | None = None) -> bytes:
    """A TIFF file of one page and one strip that may lie about its size."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, counts or len(strip))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory + bytes(4)


def structures() -> Iterator[tuple[str, bytes]]:
    """Files that contradict themselves."""
    rng = np.random.default_rng(13)
    tif = material("tif", rng, proven=True).states
    eer = material("eer", rng, proven=True).finished
    first = struct.unpack_from("<I", tif[0], 4)[0]
    link = first + 2 + 12 * struct.unpack_from("<H", tif[0], first)[0]
    yield "loop-self.tif", patched(tif[-1], "I", link, first)
    yield "loop-later.tif", patched(tif[-1], "I", len(tif[-1]) - 4, first)
    yield "loop-header.tif", patched(tif[-1], "I", link, 4)
    yield "loop.eer", patched(eer, "Q", 16 + 8 + 20 * 10, 16)
    yield "entries.tif", patched(tif[-1], "H", first, 65535)
    # every page the same strip: few bytes, many pages
    page = one_page(b"\1" * 100, 10, 10, 1)
    pages, entry = bytearray(page), page[8 + 100 :]
    for _ in range(20_001):
        struct.pack_into("<I", pages, len(pages) - 4, len(pages))
        pages += entry
    yield "pages.tif", bytes(pages)
    for side in (65_537, 2**31 - 1, 2**32 - 1):
        for tag, offset in (("width", 2 + 8), ("height", 14 + 8), ("rows", 2 + 12 * 7 + 8)):
            yield f"{tag}-{side}.tif", patched(tif[-1], "I", first + offset, side)
    for field, offset in (("nx", 0), ("ny", 4), ("nz", 8), ("mode", 12), ("nsymbt", 92)):
        for value in (0, -1, 65_536, 2**31 - 1, -(2**31)):
            yield f"{field}{value}.mrc", patched(mrc_head(5) + bytes(1600), "i", offset, value)
    yield "huge.eer", encode_eer([b"\xff" * 64] * 3, (65_536, 65_536))
    yield "impossible.eer", encode_eer([b"\xff" * 64] * 3, (2**31, 2**31))


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that unpack to much, by their own account or against it."""
    zeros = bytes(64 << 20)
    deflated, lzw = imagecodecs.zlib_encode(zeros), imagecodecs.lzw_encode(zeros)
    packed = imagecodecs.zlib_encode(bytes(1 << 30), level=9)
    yield "deflate-small.tif", one_page(deflated, 64, 64, 8)
    yield "lzw-small.tif", one_page(lzw, 64, 64, 5)
    yield "deflate-honest.tif", one_page(deflated, 8192, 8192, 8)
    yield "lzw-honest.tif", one_page(lzw, 8192, 8192, 5)
    yield "deflate-1GiB.tif", one_page(packed, 32_768, 32_768, 8)
    yield "deflate-4GiB.tif", one_page(packed * 5, 65_536, 65_536, 8)
    yield "lzw-4GiB.tif", one_page(lzw * 90, 65_536, 65_536, 5)
    yield "deflate-lies.tif", one_page(deflated[:1000], 65_536, 65_536, 8)
    yield "lzw-lies.tif", one_page(lzw[:1000], 65_536, 65_536, 5)
    yield "zstd-4GiB.tif", one_page(imagecodecs.zstd_encode(zeros) * 64, 65_536, 65_536, 50000)
    yield "frames.mrc", mrc_head(20_000, (65_536, 65_536)) + bytes(1 << 16)
    frames = np.ones((3, 8, 8), np.uint8)
    yield "same.tif", tiff_states(frames, "zlib")[-1]


@pytest.mark.parametrize("make", [structures, bombs], ids=["structures", "bombs"])
def test_a_hostile_movie_is_refused_soon_and_in_little_memory(make, tmp_path, report):
    paths = [written(tmp_path, name, data) for name, data in make()]
    listed: list[Listed] = [(kind, path, None) for path in paths for kind in ("movie", "streamed")]
    results = read_in_child(listed, tmp_path)
    outcomes = Counter(result["outcome"] for result in results)
    figure = f"{dict(outcomes)}; {summary(results)}"
    report("F3", f"hostile movies: {make.__name__}", n=len(listed), figure=figure, target="0 read, 0 uncaught, <= 2 s")
    for result in sorted(results, key=lambda result: -result["seconds"])[:5]:
        print(result)
    check(results)
    assert outcomes["read"] == 0, [result for result in results if result["outcome"] == "read"]


_LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
_XML = "FoilHole_1_Data_2_3_20240101_000000.xml"
_EXTERNAL = '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><MicroscopeImage>&x;</MicroscopeImage>'


def sidecars() -> Iterator[tuple[str, bytes]]:
    """Name and content; each lies beside a movie of its own."""
    laughs = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a0 "ha">{_LAUGHS}]><MicroscopeImage>&a9;</MicroscopeImage>'
    yield _XML, laughs.encode()
    yield _XML, laughs.encode("utf-16")
    yield _XML, laughs.replace("DOCTYPE", "doctype").encode()
    yield _XML, _EXTERNAL.encode()
    yield _XML, _EXTERNAL.encode("utf-7")
    yield _XML, b"<a>" * 500_000
    yield _XML, b"<MicroscopeImage>" + b"<a/>" * 2_000_000 + b"</MicroscopeImage>"
    yield _XML, b"<MicroscopeImage " + b" ".join(b'a%d=""' % n for n in range(100_000)) + b"/>"
    yield _XML, b" " * (17 << 20)
    yield "mdoc", b"A = 1\n" * (3 << 20)
    yield "mdoc", b"[FrameSet = 0]\n" * 200_000
    yield "mdoc", b"NumSubFrames = " + b"9" * 1_000_000
    yield "mdoc", b"NumSubFrames = 1e308\nImageShift = nan inf\n"
    yield "mdoc", b"FrameDosesAndNumber = " + b"1 1 " * 2_000_000
    yield "mdoc", bytes(1 << 20)
    yield "mdoc", b"[" * 1_000_000
    yield "mdoc", b"A" * (15 << 20)


def test_a_hostile_sidecar_is_refused_soon_and_in_little_memory(tmp_path, report):
    listed: list[Listed] = []
    for number, (name, data) in enumerate(sidecars()):
        place = tmp_path / f"{number}"
        place.mkdir()
        movie = place / ("a.tif" if name == "mdoc" else "FoilHole_1_Data_2_3_20240101_000000_fractions.tiff")
        written(place, "a.tif.mdoc" if name == "mdoc" else name, data)
        listed.append(("sidecar", movie, None))
    results = read_in_child(listed, tmp_path)
    believed = [r for r in results if r["outcome"] == "read" and r["n_frames"] is not None]
    figure = f"{dict(Counter(r['outcome'] for r in results))}, {len(believed)} told a number of frames; "
    report("F3", "hostile sidecars", n=len(listed), figure=figure + summary(results), target="0 uncaught, <= 2 s")
    for result in results:
        print(result)
    check(results)
    assert not any("root:" in result.get("message", "") for result in results)


def references() -> Iterator[tuple[str, str, bytes]]:
    """Gains and lists of defects."""
    rng = np.random.default_rng(14)
    noise = rng.bytes(17 << 20)
    for suffix in ("mrc", "tif", "gain", "dm4"):
        yield "gain", f"gain-noise.{suffix}", noise
    for number in range(40):
        yield "gain", f"gain{number}.dm4", b"\0\0\0\4" + rng.bytes(int(rng.integers(0, 4096)))
    yield "gain", "gain-text.dm4", b"\0\0\0\4" + struct.pack(">QI", 2**63, 1) + b"\x01\x01" + b"\xff" * 5000
    yield "gain", "gain-nan.mrc", mrc_head(1, (8, 8), mode=2) + np.full(64, np.nan, "<f4").tobytes()
    yield "gain", "gain-bomb.tif", one_page(imagecodecs.zlib_encode(bytes(64 << 20)) * 5, 32_768, 9000, 8)
    yield "defects", "defects-noise.txt", noise
    yield "defects", "defects-many.txt", b"1 1 1 1\n" * 100_000
    yield "defects", "defects-too-many.txt", b"1 1 1 1\n" * 500_000
    yield "defects", "defects-large.txt", b"0 0 " + b"9" * 4000 + b" 1\n"
    yield "defects", "defects-huge.txt", b"1 1 4611686018427387904 1\n" * 1000


def test_a_hostile_gain_or_list_of_defects_is_refused_soon_and_in_little_memory(tmp_path, report):
    listed: list[Listed] = [(kind, written(tmp_path, name, data), None) for kind, name, data in references()]
    results = read_in_child(listed, tmp_path)
    figure = f"{dict(Counter(r['outcome'] for r in results))}; {summary(results)}"
    report("F3", "hostile gains and defects", n=len(listed), figure=figure, target="0 uncaught, <= 2 s")
    for result in sorted(results, key=lambda result: -result["seconds"])[:5]:
        print(result)
    check(results)
