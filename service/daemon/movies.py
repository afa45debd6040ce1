"""What becomes of a movie: arrived, ordered, finished or failed. Every decision is journalled before it is acted on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from service.config import DENOISE, SUPER_RESOLUTION
from service.daemon.gain_watch import GainWatch, offered_gain
from service.daemon.learning.consequences import Learning
from service.daemon.overload import LoadShedding, in_order
from service.daemon.skipped_files import SkippedFiles
from service.journal.movie_table import PENDING
from service.processes.messages import Failed, Finished, Work
from service.wire.messages import SessionChange
from streamer.errors import Handling, MovieNotReady, NotAMovie, Reason
from streamer.movie_record import MovieRecord, Times
from streamer.records import Instructions
from streamer.runtime.clock import SYSTEM, utc_seconds, utc_text
from streamer.runtime.fault_point import fault_point
from streamer.settings import NO_GAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.config import Config
    from service.daemon.micrograph_tables import MicrographTables
    from service.daemon.serving_version import ServingVersions
    from service.daemon.trainer_process import TrainerProcess
    from service.health.alarms import Alarms
    from service.health.prometheus import Metrics
    from service.health.status import Status
    from service.journal.journal import Journal
    from service.journal.movie_table import JournalMovie
    from service.layout import Layout
    from streamer.detector.gain_choice import GainChoice
    from streamer.errors import StreamerError
    from streamer.runtime.clock import Clock
    from streamer.watch.arrival import Arrival

_log = logging.getLogger(__name__)

_HOLD_AFTER_OUTPUT_ERROR_S = 5.0
_ENDS_AS: dict[Handling, Literal["incomplete", "vanished", "skipped"]] = {
    Handling.LOOK_AGAIN: "incomplete",
    Handling.VANISH: "vanished",
    Handling.LEAVE: "skipped",
}


class MovieLifecycle:
    """Handles arrivals and results, and makes the orders."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        journal: Journal,
        *,
        gains: GainChoice,
        versions: ServingVersions,
        trainer: TrainerProcess,
        tables: MicrographTables,
        metrics: Metrics,
        status: Status,
        alarms: Alarms,
        clock: Clock = SYSTEM,
    ) -> None:
        self._config, self._layout, self._journal, self._clock = config, layout, journal, clock
        self._gains, self._versions, self._trainer, self._tables = gains, versions, trainer, tables
        self._metrics, self._status, self._alarms = metrics, status, alarms
        self._makes_gains = config.gain.from_movies != "never" and config.movie.gain != NO_GAIN
        self._gain_watch = GainWatch(alarms, self._offered_gain)
        self._hold_until = 0.0
        self._without_gain: set[str] = set()
        self._not_ready_since: dict[str, float] = {}
        self.load = LoadShedding(config.overload)
        self.skipped = SkippedFiles(journal.movies.no_movies(), alarms, metrics)
        self.show: Callable[[MovieRecord], None] = lambda _record: None
        """Called with every finished movie that has a thumbnail."""
        self.learning = Learning(
            layout,
            journal,
            versions=versions,
            trainer=trainer,
            metrics=metrics,
            alarms=alarms,
            learns=config.session_model.enabled,
        )
        self.specimens = self.learning.specimens
        self.session = config.session.name or ""

    @property
    def is_holding(self) -> bool:
        """Whether nothing should be started for now, because results cannot be written."""
        return self._clock.monotonic() < self._hold_until

    def arrived(self, arrival: Arrival) -> None:
        """Journal a movie that is complete, or one that will not be."""
        movie = arrival.movie
        fault_point("discovered", movie.relative)
        if isinstance(arrival.error, NotAMovie) and self.skipped.is_reference(movie, arrival.error):
            return  # it belongs to the movies, and is none that could be retried
        is_movie = not isinstance(arrival.error, NotAMovie)
        if is_movie:
            self._metrics.detected()
            self._metrics.ready(arrival.waited_s)
        if is_movie and movie.session != self.session:
            self.session = movie.session
            self._journal.events.append(SessionChange(state="started"), movie.session)
        twin = self._journal.movies.twin_of(movie.movie_id, arrival.fingerprint) if arrival.fingerprint else None
        if arrival.error is None and twin is None:
            complete = utc_text(utc_seconds(arrival.ready_utc) - arrival.still_s)
            added = self._journal.add_ready(
                movie, arrival.detected_utc, arrival.ready_utc, complete, arrival.fingerprint
            )
            if not arrival.found_at_start and added.state == "ready":
                self.load.arrived(movie.movie_id)
            fault_point("ready", movie.relative)
            return
        if arrival.error is None:
            message, hint = (
                f"{movie.relative}: has the same content as {twin}",
                'watch.duplicates = "process" takes both',
            )
            reason = Reason(error="Skipped", message=message, hint=hint)
        else:
            reason = arrival.error.reason()
        record = MovieRecord(
            movie_id=movie.movie_id,
            session=movie.session,
            state=_ends_as(arrival.error),
            reason=reason,
            times=Times(detected=arrival.detected_utc, ready=arrival.ready_utc),
        )
        if self._journal.add_final(movie, record, arrival.detected_utc) is not None:
            self.waits_no_more(movie.movie_id)
            self._metrics.finished(record, stage="arrival")
            if isinstance(arrival.error, NotAMovie):
                self.skipped.add(arrival.error)
            else:
                _log.warning("%s: %s", record.state, reason.message)

    def order(self, movie: JournalMovie) -> Work:
        """Make the order for a movie: gain, model and directories; raises ConfigError."""
        known, session, movie_id = movie.movie, movie.session, movie.movie_id
        gain = self._gains.for_movie(Path(movie.path), known.acquisition.gain_reference)
        version = self._versions.version(session) if self._config.denoise.enabled else None
        shed, why = self._left_out(movie)
        learns = self._config.session_model.enabled and DENOISE not in shed
        learns_super_resolution = learns and self._config.super_resolution.learns
        notes = self.learning.notes(session) if version is not None or self._config.session_model.enabled else ()
        return Work(
            movie=known,
            times=Times(
                detected=movie.detected_utc,
                complete=movie.complete_utc,
                ready=movie.ready_utc,
                started=utc_text(self._clock.wall()),
            ),
            instructions=Instructions(
                session_directory=str(self._layout.session_output(session)),
                groups=str(self._layout.groups(movie_id)) if learns else None,
                training_data=str(self._layout.training_data(movie_id)) if learns_super_resolution else None,
                notes=(*notes, f"shed: {', '.join(shed)}: {why}") if shed else notes,
                shed=shed,
                follow_links_to=self._config.watch.places,
                usual=self.specimens.session(session).usual,
                stood_still=self._stood_still(movie_id),
            ),
            gain=None if gain is None else str(gain),
            made_gains=str(self._layout.made_gains(session)) if gain is None and self._makes_gains else None,
            model=None if version is None else str(self._layout.models(session) / version),
            super_resolution_model=self._super_resolution_model(session),
            on_cpu=self._failures_of_the_device(movie) > 1,
        )

    def _offered_gain(self, session: str) -> str | None:
        """What is offered to a session without a gain reference, in words."""
        return offered_gain(self._layout.made_gains(session)) if self._makes_gains else None

    def _left_out(self, movie: JournalMovie) -> tuple[tuple[str, ...], str]:
        """What to leave out of a movie, and why: under load, or because the device failed on the full job."""
        failures = self._failures_of_the_device(movie)
        if failures:
            device = ", computed on the CPU" if failures > 1 else ""
            return in_order({DENOISE, SUPER_RESOLUTION, *self.load.shed}), f"the device has failed on it{device}"
        return self.load.shed, f"{self.load.waiting} movies wait"

    @staticmethod
    def _failures_of_the_device(movie: JournalMovie) -> int:
        return movie.attempt if movie.reason is not None and movie.reason.error == "DeviceError" else 0

    def _super_resolution_model(self, session: str) -> str | None:
        chosen = self._config.super_resolution
        version = self._versions.super_resolution_version(session, chosen.method) if chosen.learns else None
        return None if version is None else str(version)

    def finished(self, message: Finished) -> None:
        """Make a result durable, then publish it, then learn from it."""
        record = message.record
        if self._journal.finish(record) is None:
            self._came_to_nothing(record.movie_id)
            return
        fault_point("committed", record.path)
        self.show(record)
        self._metrics.finished(record, latency_s=self._status.finished(record))
        self._alarms.clear("outputs-failing")
        self.waits_no_more(record.movie_id)
        self._tables.add(record)
        self._gain_watch.judge(record)
        self.learning.learn(record)
        _log.info("done: %s, %s", record.path, record.restoration)

    def _came_to_nothing(self, movie_id: str) -> None:
        """A movie was superseded or skipped while it was computed; a newer revision of it may still wait."""
        newest = self._journal.movie(movie_id)
        if newest is None or newest.state not in PENDING:
            self.waits_no_more(movie_id)

    def failed(self, message: Failed) -> None:
        """Decide what becomes of a movie that could not be processed."""
        movie_id, revision, reason = message.movie_id, message.revision, message.reason
        _log.warning("%s: %s", message.handling, reason.message)
        match message.handling:
            case Handling.FAIL | Handling.VANISH | Handling.LEAVE:
                self._end(message)
                return
            case Handling.LOOK_AGAIN if not self._has_patience(movie_id):
                self._end(message)
                return
            case Handling.LOOK_AGAIN | Handling.WAIT:
                self._journal.retry_later(movie_id, revision, reason, counted=False)
            case Handling.HOLD | Handling.ASK:
                self._wait_for_people(message)
                self._journal.retry_later(movie_id, revision, reason, counted=False)
            case Handling.RETRY:
                self._trainer.give_way()
                if self._journal.retry_later(movie_id, revision, reason) == "quarantined":
                    self.gave_up(movie_id)
        self._metrics.retried(reason.error)

    def gave_up(self, movie_id: str) -> None:
        """Report a movie that is not tried again, because workers crash on it or the device fails."""
        self.waits_no_more(movie_id)
        movie = self._journal.movie(movie_id)
        name = movie_id if movie is None else movie.relative
        why = "" if movie is None or movie.reason is None else f" ({movie.reason.message})"
        words = f"{name}: given up after repeated failures{why}; to try again: streamer movies retry {movie_id}"
        self._alarms.tell("movie-quarantined", words)
        _log.error("quarantined: %s", words)

    def _wait_for_people(self, message: Failed) -> None:
        """Raise the alarm for what only the operator can fix. Nothing is started while outputs cannot be written."""
        if message.handling is Handling.HOLD:
            self._alarms.raise_("outputs-failing", message.reason.message, "critical")
            self._hold_until = self._clock.monotonic() + _HOLD_AFTER_OUTPUT_ERROR_S
        else:
            if not self._without_gain:  # once, however many movies wait and whatever their messages
                self._alarms.raise_("gain-unclear", message.reason.message, "critical")
            self._without_gain.add(message.movie_id)

    def waits_no_more(self, movie_id: str) -> None:
        """A movie has ended, in whatever way: nothing needs fixing for it any more."""
        self.load.ended(movie_id)
        self._not_ready_since.pop(movie_id, None)
        self._without_gain.discard(movie_id)
        if not self._without_gain:
            self._alarms.clear("gain-unclear")

    def _end(self, message: Failed) -> None:
        """Journal a movie that failed, or never became complete."""
        self.waits_no_more(message.movie_id)
        known = self._journal.movie(message.movie_id, message.revision)
        record = MovieRecord(
            movie_id=message.movie_id,
            session=known.movie.session if known else self.session,
            revision=message.revision,
            state=_ENDS_AS.get(message.handling, "failed"),
            reason=message.reason,
            times=Times(stage_s=message.stage_s),
        )
        if self._journal.finish(record) is not None:
            self._metrics.finished(record, stage=message.stage)

    def _stood_still(self, movie_id: str) -> bool:
        """Whether a file was found incomplete so long ago that an empty end is taken for the exposure's."""
        since = self._not_ready_since.get(movie_id)
        enough_s = self._config.watch.incomplete_after_s / 2.0
        return since is not None and self._clock.monotonic() - since >= enough_s

    def _has_patience(self, movie_id: str) -> bool:
        """Whether an incomplete file may still become complete; counted from when it was first found incomplete."""
        since = self._not_ready_since.setdefault(movie_id, self._clock.monotonic())
        return self._clock.monotonic() - since < self._config.watch.incomplete_after_s


def _ends_as(error: StreamerError | None) -> Literal["skipped", "incomplete", "failed"]:
    """State of a movie that is not started; without an error it is another one's twin."""
    if error is None or isinstance(error, NotAMovie):
        return "skipped"
    return "incomplete" if isinstance(error, MovieNotReady) else "failed"
