"""A `MovieLifecycle` by itself, and what arrives."""

from types import SimpleNamespace

from service.daemon.movies import MovieLifecycle
from service.health.alarms import Alarms
from service.health.prometheus import Metrics
from service.health.status import Status
from service.layout import Layout
from streamer.watch.arrival import Arrival
from tests.service_samples import UTC


def lifecycle_of(journal, directory, settings):
    """A lifecycle whose gains, models and trainer say nothing."""
    metrics = Metrics()
    return MovieLifecycle(
        settings,
        Layout(root=directory / "in", output=directory / "out", state=directory / "state", runtime=directory / "run"),
        journal,
        gains=SimpleNamespace(for_movie=lambda path, named: None),
        versions=SimpleNamespace(
            version=lambda session: None,
            super_resolution_version=lambda session, method: None,
            has_own=lambda session, specimen: True,
        ),
        trainer=SimpleNamespace(give_way=lambda: None, learn=lambda *what: None),
        tables=SimpleNamespace(add=lambda record: None),
        metrics=metrics,
        status=Status(),
        alarms=Alarms(journal.events, metrics),
    )


def arrival_of(movie, *, found_at_start=False, fingerprint=None, error=None):
    """What the watcher says of a file that has settled."""
    return Arrival(
        movie=movie,
        header=None,
        error=error,
        detected_utc=UTC,
        ready_utc=UTC,
        waited_s=1.0,
        still_s=1.0,
        found_at_start=found_at_start,
        fingerprint=fingerprint,
    )
