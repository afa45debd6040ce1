"""What a finished movie means for the next ones: its specimen, the version that serves, and what the trainer gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.daemon.specimen_watch import SpecimenWatch
from service.daemon.trainer_process import forget, what_to_learn
from service.health.specimen_alarms import SpecimenAlarms
from streamer.errors import OutputError

if TYPE_CHECKING:
    from models.specimens import Change
    from service.daemon.serving_version import ServingVersions
    from service.daemon.specimen_watch import SessionSpecimens
    from service.daemon.trainer_process import TrainerProcess
    from service.health.alarms import Alarms
    from service.health.prometheus import Metrics
    from service.journal.journal import Journal
    from service.layout import Layout
    from service.processes.messages import Learn
    from streamer.movie_record import MovieRecord

_MOVIES_AT_START = 160
"""Largest number of movies that a new trainer is given."""


class Learning:
    """Draws the consequences, movie by movie."""

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        *,
        versions: ServingVersions,
        trainer: TrainerProcess,
        metrics: Metrics,
        alarms: Alarms,
        learns: bool,
    ) -> None:
        """``learns``: whether networks are trained."""
        self._layout, self._journal, self._versions, self._trainer = layout, journal, versions, trainer
        self._metrics, self._alarms = metrics, alarms
        self._specimen_alarms = SpecimenAlarms(alarms, learns=learns)
        self.specimens = SpecimenWatch(layout.session_state)

    def learn(self, record: MovieRecord) -> None:
        """Find out which specimen a movie is of; give the trainer the movies whose specimen this has settled."""
        session = record.session
        specimens = self.specimens.session(session)
        try:
            decided, change = specimens.observe(record, self._versions.version(session))
            self._alarms.clear("state-failing")
        except OutputError as error:
            self._alarms.raise_("state-failing", str(error), "critical")
            return  # nothing is learned from it; it is still done and published
        if change is not None:
            serving = self._versions.version(session)
            fits = specimens.fits(serving, record.metrics.score if record.metrics else None)
            earlier = specimens.served(change.specimen)
            serves = self._versions.change_specimen(session, change, earlier, fits=fits)
            self._metrics.specimen(change.specimen, changed=True)
            self._trainer.change_specimen(session, change.specimen, serving if serves is None else None)
        elif specimens.began_again:
            self._trainer.change_specimen(session, specimens.current, None)
        self._prove(session, specimens)
        self._tell(session, specimens, change)
        for movie_id in specimens.found_empty:
            self._metrics.empty_movie()
            forget(self._layout, movie_id)
        for movie_id, specimen in decided:
            learned = what_to_learn(self._layout, movie_id)
            if learned is not None and specimen == specimens.current:
                self._trainer.learn(session, learned, specimen)

    def _prove(self, session: str, specimens: SessionSpecimens) -> None:
        """Give up a version that learned from another specimen once its scores prove that it is worse for this one."""
        serving, number = self._versions.version(session), specimens.current
        reason = specimens.unfit(serving)
        if reason is None or self._versions.has_own(session, number):
            return
        serves = self._versions.drop(session, specimens.served(number), f"specimen {number}: {reason}")
        if serves == serving:
            return
        self._trainer.change_specimen(session, number, serving if serves is None else None)
        if not self._versions.has_own(session, number):
            self._specimen_alarms.dropped(session, number, serving, serves, reason)

    def _tell(self, session: str, specimens: SessionSpecimens, change: Change | None) -> None:
        number = specimens.current
        has_network = number == 1 or self._versions.has_own(session, number)
        serves = self._versions.version(session)
        self._specimen_alarms.specimen(session, number, specimens.since, change, serves, has_network=has_network)
        self._specimen_alarms.empty(session, specimens.empty_in_a_row, *specimens.empty_since)

    def to_learn(self, session: str, specimen: int) -> list[Learn]:
        """Finished movies of a specimen whose group sums are still there, oldest first."""
        movies = self._journal.movies.newest(session=session, state="done", limit=_MOVIES_AT_START)
        known = self.specimens.session(session)
        ids = [movie.movie_id for movie in reversed(movies)]
        found = [what_to_learn(self._layout, movie_id) for movie_id in ids if known.of(movie_id) == specimen]
        return [movie for movie in found if movie is not None]

    def notes(self, session: str) -> tuple[str, ...]:
        """What a movie's record must note because of earlier movies."""
        specimens = self.specimens.session(session)
        number = specimens.current
        if number == 1 or self._versions.has_own(session, number):
            return ()
        return (f"model: specimen {number} since {specimens.since}, no network has learned from it yet",)
