"""Which files may be movies by their names: only what the settings exclude is decided here, the rest by content.

Whatever a rule leaves out is counted under words that name the rule, so that nothing is silently invisible.
"""

from __future__ import annotations

import fnmatch
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from streamer.metadata import epu
from streamer.readers.gain import is_gain_name

if TYPE_CHECKING:
    from streamer.watch.settings import WatchSettings

EPU_IMAGES = "integrated images (EPU)"
REFERENCES, DEFECT_MAPS = "gain references", "defect maps"
# What holds images, also where the settings include only some of them: a session of such names must not look empty.
_MOVIES = frozenset((".mrc", ".mrcs", ".tif", ".tiff", ".eer"))
_OTHER_IMAGES = _MOVIES | frozenset(
    ".map .st .ali .rec .hdf .hdf5 .h5 .dm3 .dm4 .raw .ser .seq .emd .em .gz .bz2 .xz .zst .lz4 .7z .zip .tar .eerc "
    ".mrcz .jp2".split()
)
# How copy programs and people end the name of a movie that is not to be taken for one yet, or any more.
_UNFINISHED = frozenset(".filepart .partial .crdownload .download .old .bak .copy".split())


def is_movie_name(name: str, settings: WatchSettings, *, in_epu_tree: bool = False) -> bool:
    """Whether a file of this name may be a movie; see ``name_rule``."""
    return name_rule(name, settings, in_epu_tree=in_epu_tree) is None


def name_rule(name: str, settings: WatchSettings, *, in_epu_tree: bool = False) -> str | None:
    """Words for the rule by which a file of this name is no movie; None: it may be one, its content decides.

    Empty for what nobody takes for a movie, such as sidecars, which is not counted.

    Parameters
    ----------
    in_epu_tree : it is where EPU also writes integrated images, one for each movie, which its names tell apart.
    """
    lower = name.lower()
    stem, suffix = os.path.splitext(lower)  # noqa: PTH122 - a name, no path
    included = _matcher(settings.include).match(lower) is not None
    if _matcher(settings.exclude).match(lower):
        # a movie but for this rule: by its whole name, or by what it will be called when it is copied
        if not (included or _matcher(settings.include).match(stem)):
            return ""
        pattern = next(pattern for pattern in settings.exclude if _matcher((pattern,)).match(lower))
        return f'watch.exclude "{pattern}"'
    if not included:
        if suffix == ".gain" or (suffix == ".dm4" and is_gain_name(name)):
            return REFERENCES
        if in_epu_tree and suffix in _MOVIES and epu.is_integrated(name):
            return EPU_IMAGES
        is_image = suffix in _OTHER_IMAGES or (suffix in _UNFINISHED and stem.endswith(tuple(_MOVIES)))
        return f'not in watch.include: "*{suffix}"' if is_image else ""
    return EPU_IMAGES if in_epu_tree and epu.is_integrated(name) else None


def is_hidden(directory: str) -> bool:
    """Whether to pass by a directory of this name; directories such as ``.snapshot`` contain copies of everything."""
    return directory.startswith((".", "$"))


@lru_cache(maxsize=64)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for several file name patterns, in lower case; no patterns match nothing."""
    return re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns) or r"(?!)")
