"""Commands for what the daemon has stored: movies in the journal; ``cli_models`` has those for versions.

A running daemon is asked over its local socket; where none runs, the journal is opened directly, under the same lock.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from service.cli.options import configured, load_config
from service.journal.database import lock_instance
from service.journal.journal import FINAL, Journal
from service.journal.movie_table import PENDING
from service.layout import layout_of, prepare
from service.named_versions import base_of
from service.printable import printable
from service.subscribers.connection import connection
from service.wire.messages import ProtocolError
from streamer import jsontext
from streamer.errors import AlreadyRunning, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.config import Config
    from service.journal.movie_table import JournalMovie

_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable, on standard output.")
_RETRIED = ("failed", "quarantined", "incomplete", "vanished", "skipped")


@contextmanager
def reading(config: Config) -> Iterator[Journal]:
    """Journal, read-only, whether a daemon runs or not."""
    layout = layout_of(config)
    if not layout.journal.is_file():
        raise UsageError("there is no journal yet", where=layout.journal, hint="has the daemon run with this state?")
    journal = Journal.open(layout.journal, instance=config.instance.name, read_only=True)
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def operator(config: Config) -> Iterator[Callable[..., dict[str, Any]]]:
    """Give what carries out commands: the daemon if one runs, else the journal and the versions themselves."""
    layout = layout_of(config)
    prepare(layout)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_instance(layout.state))
        except AlreadyRunning:
            client = stack.enter_context(connection(config, local=True))
            yield client.control
            return
        from service.daemon.operator import Operator, StoppedDaemon
        from service.daemon.serving_version import ServingVersions
        from service.health.prometheus import Metrics

        journal = stack.enter_context(closing(Journal.open(layout.journal, instance=config.instance.name)))
        versions = ServingVersions(layout, journal, Metrics(), base_of(config))
        stopped = StoppedDaemon(layout, journal, versions, config.session.name or "")
        yield lambda verb, **arguments: Operator(stopped).carry_out(verb, arguments)


# --------------------------------------------------------------------------------------------------------- movies


@click.group()
def movies() -> None:
    """Look at the journal, and decide about single movies."""


@movies.command("list")
@configured
@click.option("--state", type=click.Choice((*PENDING, *FINAL)), help="Only this state.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, newest first."
)
@_JSON
def list_movies(
    config: Path | None, overrides: tuple[str, ...], state: str | None, limit: int, *, as_json: bool
) -> None:
    """List movies, newest first."""
    with reading(load_config(config, overrides)) as journal:
        for movie in journal.movies.newest(state=state, limit=limit):
            if as_json:
                click.echo(jsontext.encode(_summary(movie)).decode())
            else:
                why = f"  {printable(movie.reason.message)}" if movie.reason else ""
                name = printable(movie.relative)
                click.echo(f"{movie.movie_id}  r{movie.revision}  {movie.state:<11} {name}{why}")


@movies.command("show")
@click.argument("movie_id")
@configured
@_JSON
def show_movie(movie_id: str, config: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Show all that is known of a movie."""
    with reading(load_config(config, overrides)) as journal:
        movie = journal.movie(movie_id)
    if movie is None:
        raise UsageError("the journal does not know this movie", where=movie_id, hint="streamer movies list")
    whole = _summary(movie) | {"record": movie.record}
    click.echo(jsontext.encode(whole, indent=None if as_json else 2).decode())


@movies.command("retry")
@click.argument("movie_ids", metavar="[MOVIE_ID]...", nargs=-1)
@click.option("--state", type=click.Choice(_RETRIED), help="All movies of this state.")
@click.option("--what-was-shed", is_flag=True, help="All movies that lack something because they came too fast.")
@configured
def retry_movies(
    movie_ids: tuple[str, ...],
    state: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    what_was_shed: bool,
) -> int:
    """Process movies once more: a failed one again, a done one as a new revision.

    Of several, one that is refused does not stop the others; exit status 1 tells that there was one.
    """
    settings = load_config(config, overrides)
    if [bool(movie_ids), state is not None, what_was_shed].count(True) != 1:
        raise UsageError("name movies, a state or what was shed", expected="MOVIE_ID..., --state or --what-was-shed")
    chosen = list(dict.fromkeys(movie_ids)) or _chosen(settings, state)
    if not chosen:
        click.echo(f"no movie is {state}" if state else "no movie lacks anything", err=True)
        return 0
    refused = 0
    with operator(settings) as tell:
        for movie_id in chosen:
            try:
                result = tell("retry", movie_id=movie_id)
            except (UsageError, ProtocolError) as error:
                if len(movie_ids) == 1:
                    raise
                refused += 1
                click.echo(printable(str(error)), err=True)
            else:
                click.echo(f"{printable(movie_id)}: {result['state']}, revision {result['revision']}")
    return int(refused > 0)


def _chosen(config: Config, state: str | None) -> list[str]:
    """Ids of all movies in a state, or else of those that lack what was shed, oldest first."""
    with reading(config) as journal:
        if state is None:
            return journal.movies.with_shed()
        return [movie.movie_id for movie in journal.movies.every(state)]


@movies.command("skip")
@click.argument("movie_id")
@click.option("--reason", default="by the operator", show_default=True, help="Stands in the journal and the event.")
@configured
def skip_movie(movie_id: str, reason: str, config: Path | None, overrides: tuple[str, ...]) -> None:
    """Leave a movie out that waits, is at work or failed."""
    with operator(load_config(config, overrides)) as tell:
        tell("skip", movie_id=movie_id, reason=reason)
    click.echo(f"{movie_id}: skipped")


def _summary(movie: JournalMovie) -> dict[str, Any]:
    return movie.summary() | {"path": printable(movie.relative)}
