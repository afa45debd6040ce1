"""Removes what a killed daemon left half-written, found by what it was doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.writers.atomic import sweep_temporaries

if TYPE_CHECKING:
    from service.journal.journal import Journal
    from service.layout import Layout


def sweep_leftovers(journal: Journal, layout: Layout) -> int:
    """Remove temporary files of the movies that were in progress; returns how many.

    It does not walk through all outputs: there may be years of them.
    """
    at_work = [m.movie for m in journal.movies.newest(state="started")]
    newest = [m.movie for m in journal.movies.newest(limit=1)]
    flat = {layout.state / "groups", *(layout.session_output(movie.session) for movie in (*at_work, *newest))}
    swept = [sweep_temporaries(layout.movie_output(movie)) for movie in at_work]
    swept += [sweep_temporaries(place, recursive=False) for place in flat]
    return sum(map(len, swept))
