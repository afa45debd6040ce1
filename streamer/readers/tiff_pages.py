"""The structure of a TIFF file: which pages are its frames, and where their strips are, checked before any is decoded.

Classic TIFF and BigTIFF, little- and big-endian. Something beyond the end of the file means that it is still
being written (``MovieNotReady``); a contradiction is ``MovieCorrupt``. Source: TIFF 6.0, Adobe 1992,
and the BigTIFF design of libtiff.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported
from streamer.readers import remarks
from streamer.readers.eer_metadata import EER_METADATA, document_of
from streamer.readers.files import CUT_SHORT, damaged
from streamer.readers.tiff_tags import (
    COMPRESSION,
    HEIGHT,
    SUB_DIRECTORIES,
    WIDTH,
    Layout,
    Strips,
    Tags,
    TiffFile,
    holds_frames_within,
    open_tiff,
    read_layout,
    read_strips,
    read_tags,
    resolution,
    tag_bytes,
    tag_value,
)

if TYPE_CHECKING:
    from pathlib import Path

MAX_PAGES = 20_000
MAX_STRIPS = 4_000_000
"""Over all pages: no camera comes close, and a file cannot make us store more than this many offsets."""
MAX_LAYOUTS = 16
"""Kinds of pages: frames, and previews of some sizes."""
MAX_UNLIKE = 64
"""Pages that cannot be frames."""

_SUBFILE, _DESCRIPTION, _METAMORPH = 254, 270, 33629
_PICTURE_COMPRESSIONS = (1, 5, 6, 7, 8, 32773, 32946, 34712, 50000, 50001)
"""None, LZW, JPEG, deflate, PackBits, JPEG 2000, zstd, WebP: no single wrong bit makes one of them of an EER stream."""
_EER_BITS = (65007, 65008, 65009)
_EER_REMARKS = range(65000, 65100)
_NOTES_BYTES = 1 << 12
"""What a file may hold for each page beside its pixels before they are taken for more pixels."""
_A_PAGE_EACH = "save it with a page for each frame, or as MRC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The structure of a whole file."""

    layout: Layout
    strips: tuple[Strips, ...]
    """Per page."""
    pixel_size: float | None
    """Å/px from the resolution tags, unchecked."""
    eer_metadata: bytes | None = None
    """XML document of an EER movie."""
    eer_bits: tuple[int, int, int] = (0, 0, 0)
    """Of a run length, and of the sub-pixel position along x and y, where an EER movie states them."""
    is_said_packed: bool = False
    """Whether the description says that two counts share a byte."""
    flags: tuple[str, ...] = ()
    """What a user should know about pages that are no frames."""


def read_pages(path: Path, descriptor: int) -> Pages:
    """Walk through all pages of a TIFF file.

    Raises
    ------
    MovieNotReady
        A page or a strip is beyond the end of the file, or is not filled in yet.
    MovieCorrupt
        The structure contradicts itself.
    MovieUnsupported
        It is valid, but of a kind that is not supported.
    """
    return _walk(*open_tiff(path, descriptor))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """A page that is not, or not yet known to be, a frame."""

    number: int
    """From 0."""
    height: int
    width: int
    compression: int | None
    """None where the page does not say."""
    is_reduced: bool
    """The file says that it is a small version of another."""
    why_not: MovieUnsupported | MovieCorrupt | None
    """What is wrong with it if it should be a frame."""
    is_remark: bool = False
    """It says something about the acquisition, and nothing about an image."""


@dataclass(slots=True)
class _Alike:
    """The pages of one layout."""

    tags: Tags
    """Of the first."""
    numbers: list[int]
    strips: list[Strips]
    is_reduced: bool

    @property
    def stored_bytes(self) -> int:
        """Of all of its pages."""
        return sum(int(strips.counts.sum()) for strips in self.strips)


def _walk(file: TiffFile, offset: int) -> Pages:
    """Read all pages, those of each layout together, and find out which are the frames."""
    alike: dict[Layout, _Alike] = {}
    others: list[_Page] = []
    document: Tags | None = None
    seen: set[int] = set()
    total = 0
    while offset != 0:
        page = len(seen)
        _check_offset(file, offset, page, seen)
        tags, offset = _following(file, offset, page, alike, others)
        if document is None and EER_METADATA in tags:
            document = tags
        try:
            layout = read_layout(file, tags, page)
            found = read_strips(file, tags, layout, page)
        except (MovieUnsupported, MovieCorrupt) as error:
            others.append(_unlike(file, tags, page, error))
            if len(others) > MAX_UNLIKE:
                raise
            continue
        group = alike.get(layout)
        if group is None:
            is_reduced = bool(tag_value(file, tags, _SUBFILE, page, 0) & 1)
            group = alike[layout] = _Alike(tags, [], [], is_reduced)
        group.numbers.append(page)
        group.strips.append(found)
        total += len(found.offsets)
        if total > MAX_STRIPS or len(alike) > MAX_LAYOUTS:
            raise damaged(
                file.path, page, expected=f"at most {MAX_STRIPS} strips, and {MAX_LAYOUTS} kinds of pages", found="more"
            )
    if not alike:
        if others and others[0].why_not is not None:
            raise others[0].why_not
        raise MovieNotReady("has no frame yet", where=file.path, hint=CUT_SHORT)
    # how much pages hold that cannot be read is not known
    is_known = not others and not any(one.has_events for one in alike)
    beside = float(sum(group.stored_bytes for group in alike.values())) if is_known else math.inf
    layout = max(alike, key=lambda one: (one.has_events, len(alike[one].numbers) * one.height * one.width))
    frames = alike.pop(layout)
    others += [
        _Page(
            number=number,
            height=other.height,
            width=other.width,
            compression=other.compression if COMPRESSION in group.tags else None,
            is_reduced=group.is_reduced,
            why_not=None,
        )
        for other, group in alike.items()
        for number in group.numbers
    ]
    flags = _left_out(file, layout, others, len(frames.numbers))
    return _pages(file, layout, frames, document, flags, beside - frames.stored_bytes)


def _following(
    file: TiffFile, offset: int, page: int, alike: dict[Layout, _Alike], others: list[_Page]
) -> tuple[Tags, int]:
    """Entries of a page; a damaged page before it says nothing reliable about where it is."""
    try:
        return read_tags(file, offset, page)
    except MovieNotReady as error:
        before = others[-1] if others else None
        if before is not None and before.number == page - 1 and isinstance(before.why_not, MovieCorrupt):
            raise before.why_not from None
        usual = max((len(group.numbers) for group in alike.values()), default=0)
        if any(group.numbers == [page - 1] and usual > 1 for group in alike.values()):
            raise damaged(file.path, page - 1, found=f"unlike the frames before it; {error.found}") from None
        raise


def _unlike(file: TiffFile, tags: Tags, page: int, error: MovieUnsupported | MovieCorrupt) -> _Page:
    """A page that cannot be a frame; its sizes are 0 where they cannot be read."""

    def number(tag: int) -> int:
        try:
            return tag_value(file, tags, tag, page, 0)
        except MovieCorrupt:
            return 0

    return _Page(
        number=page,
        height=number(HEIGHT),
        width=number(WIDTH),
        compression=number(COMPRESSION) or None,
        is_reduced=bool(number(_SUBFILE) & 1),
        why_not=error,
        # damage would take one of the sides
        is_remark=any(tag in _EER_REMARKS for tag in tags) and WIDTH not in tags and HEIGHT not in tags,
    )


def _left_out(file: TiffFile, frames: Layout, others: list[_Page], n_frames: int) -> tuple[str, ...]:
    """Make sure that the other pages are previews and the like rather than damaged frames; what a user should know.

    Damage changes one number of a page. A preview differs in more: it is smaller along both axes, or, in an EER movie,
    an ordinary picture.
    """
    unsaid = []
    for page in sorted(others, key=lambda page: page.number):
        is_smaller = page.height < frames.height and page.width < frames.width
        is_picture = frames.has_events and (page.compression in _PICTURE_COMPRESSIONS or page.is_remark)
        is_small = 2 * page.height <= frames.height and 2 * page.width <= frames.width
        if isinstance(page.why_not, MovieCorrupt) and not is_picture:
            raise page.why_not
        if not (is_picture or (is_smaller and (page.is_reduced or is_small))):
            if page.why_not is not None and n_frames <= 1:
                raise page.why_not
            raise damaged(
                file.path,
                page.number,
                expected=f"frames of {frames.height} x {frames.width} px, all of one kind",
                found=f"frame {page.number + 1} of {page.height} x {page.width} px, or of another kind",
            )
        if not (is_picture or page.is_reduced):
            unsaid.append(str(page.number + 1))
    if not unsaid:
        return ()
    return (f"frames: page {', '.join(unsaid[:5])} of the file is smaller than the frames, and left out",)


def _pages(
    file: TiffFile, layout: Layout, frames: _Alike, document: Tags | None, flags: tuple[str, ...], beside: float
) -> Pages:
    """The frames, with what the first of them says about all."""
    if layout.has_events:
        skip, horizontal, vertical = (tag_value(file, frames.tags, number, 0, 0) for number in _EER_BITS)
        return Pages(
            layout=layout,
            strips=tuple(frames.strips),
            pixel_size=None,
            eer_metadata=None if document is None else document_of(file, document),
            eer_bits=(skip, horizontal, vertical),
            flags=flags,
        )
    text = (tag_bytes(file, frames.tags, _DESCRIPTION, remarks.MOST_BYTES) or b"").decode("utf-8", "replace")
    text = text.rstrip("\0")
    told = remarks.of_description(text)
    return Pages(
        layout=layout,
        strips=_announced(file, layout, frames, text, beside),
        pixel_size=told.pixel_size or resolution(file, frames.tags, told.unit),
        is_said_packed=remarks.is_packed(text),
        flags=flags,
    )


def _announced(file: TiffFile, layout: Layout, frames: _Alike, text: str, beside: float) -> tuple[Strips, ...]:
    """The frames of all pages, or all that follow a single page without pages of their own.

    ImageJ writes stacks beyond 4 GB so, and MetaMorph all of its stacks: one page, then the pixels of all frames.

    Parameters
    ----------
    beside : bytes of pages that are no frames.

    Raises
    ------
    MovieNotReady
        The file announces more frames than it contains, or contains more than it announces.
    MovieUnsupported
        Its pages have pages within that are frames.
    """
    if holds_frames_within(file, frames.tags, layout, frames.numbers[0]):
        raise MovieUnsupported("has frames on pages within a page", where=file.path, hint=_A_PAGE_EACH)
    n = remarks.announced_frames(text, layout.height, layout.width) or frames.tags.get(_METAMORPH, (0, 1, b""))[1]
    found, first = len(frames.strips), frames.strips[0]
    starts_anew = found == 1 and layout.compression == 1
    start, size = int(first.offsets[0]), layout.frame_bytes
    in_a_row = len(first.offsets) == 1 or bool(np.array_equal(first.offsets[1:], (first.offsets + first.counts)[:-1]))
    if n > found and starts_anew and in_a_row and n <= MAX_PAGES and start + n * size <= file.size:
        counts = first.counts if len(first.counts) > 1 else np.array([size])
        return tuple(Strips(offsets=first.offsets + page * size, counts=counts) for page in range(n))
    stored = frames.stored_bytes
    each = stored / found
    # small pages within pages are previews, of unknown size
    is_known = each >= _NOTES_BYTES and SUB_DIRECTORIES not in frames.tags
    unexplained = (file.size - stored - beside) / each if is_known else 0.0
    if n <= found and unexplained < 1.0 + _NOTES_BYTES * found / each:
        return tuple(frames.strips)
    raise MovieNotReady(
        "contains fewer frames than it announces" if n > found else "contains more than the frames that it announces",
        where=file.path,
        expected=f"{max(n, found)} frames of {layout.height} x {layout.width} px",
        found=f"{found} and as much as {unexplained:.0f} more without pages of their own" if n <= found else f"{found}",
        hint=f"{CUT_SHORT}, or {_A_PAGE_EACH}",
    )


def _check_offset(file: TiffFile, offset: int, page: int, seen: set[int]) -> None:
    if offset in seen:
        raise damaged(file.path, page, found="the list of frames leads back to an earlier frame")
    if page >= MAX_PAGES:
        raise damaged(file.path, page, expected=f"at most {MAX_PAGES} frames", found="more")
    if offset < 8:
        raise damaged(file.path, page, found="the list of frames leads to the file's header")
    seen.add(offset)
