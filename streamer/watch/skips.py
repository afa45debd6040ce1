"""What was left out of the watched directory, and why: nothing there is silently invisible."""

from __future__ import annotations

import os
from typing import NamedTuple

NOT_FOLLOWED = "links that are not followed (watch.follow_links_to)"
NOWHERE = "links that lead nowhere"


class Skips(NamedTuple):
    """What one scan left out."""

    counts: dict[str, int] = {}  # noqa: RUF012 - never changed
    """Number of files by the words for the rule."""
    unfollowed: dict[str, str] = {}  # noqa: RUF012 - never changed
    """For each directory with links that are not followed, and each place that they lead to: one, and what to do."""


def unfollowed(path: str, pointed: str, *, is_movie: bool, is_allowed: bool) -> str:
    """Sentence about a link that is not followed.

    Parameters
    ----------
    path : below the root.
    pointed : what it names.
    is_movie : its name is that of a movie; else it may be a directory.
    is_allowed : it names something in a place that may be followed, where there is nothing, or a link out again.
    """
    if is_allowed:
        return f"{path}: this link to {pointed} leads nowhere, or out of the places that may be followed"
    place = os.path.dirname(pointed) if is_movie else pointed  # noqa: PTH120 - a name, not looked at
    return (
        f"{path}: this link leads out of the watched directory, to {pointed}, and is not followed; "
        f'to follow it and its like: watch.follow_links_to = ["{place}"]'
    )
