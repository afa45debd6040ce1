"""Commands for the movies in the journal; ``service.cli.models`` has those for versions.

Changes go through the running daemon's local socket; if no daemon is running, the journal is opened directly, under the
same lock.
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

_JSON = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
_RETRIED = ("failed", "quarantined", "incomplete", "vanished", "skipped")


@contextmanager
def reading(config: Config) -> Iterator[Journal]:
    """Open the journal read-only, whether or not a daemon is running."""
    layout = layout_of(config)
    if not layout.journal.is_file():
        raise UsageError(
            "there is no journal yet", where=layout.journal, hint="has a daemon ever run with this configuration?"
        )
    journal = Journal.open(layout.journal, instance=config.instance.name, read_only=True)
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def operator(config: Config) -> Iterator[Callable[..., dict[str, Any]]]:
    """Yield what carries out commands: the running daemon, else the journal and the stored versions directly."""
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
    """List movies; retry or skip individual ones."""


@movies.command("list")
@configured
@click.option("--state", type=click.Choice((*PENDING, *FINAL)), help="List only movies in this state.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Maximum number to list, newest first.",
)
@_JSON
def list_movies(
    config: Path | None, overrides: tuple[str, ...], state: str | None, limit: int, *, as_json: bool
) -> None:
    """List movies, newest first."""
    with reading(load_config(config, overrides)) as journal:
        for movie in journal.movies.newest(state=state, limit=limit):
            if as_json:
                click.echo(jsontext.shown(_summary(movie)).decode())
            else:
                why = f"  {printable(movie.reason.message)}" if movie.reason else ""
                name = printable(movie.relative)
                click.echo(f"{movie.movie_id}  r{movie.revision}  {movie.state:<11} {name}{why}")


@movies.command("show")
@click.argument("name", metavar="MOVIE")
@configured
@_JSON
def show_movie(name: str, config: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Show everything that is known about a movie.

    MOVIE is an id, a path, a file name or EPU's hole: FoilHole_123456, 123456, or 0013/123456 as the monitor shows it.
    """
    with reading(load_config(config, overrides)) as journal:
        movie = journal.movies.named(name)
    whole = _summary(movie) | {"record": movie.plain_record}
    click.echo(jsontext.shown(whole, indent=None if as_json else 2).decode())


@movies.command("retry")
@click.argument("names", metavar="[MOVIE]...", nargs=-1)
@click.option("--state", type=click.Choice(_RETRIED), help="Retry all movies in this state.")
@click.option("--what-was-shed", is_flag=True, help="Retry all movies with steps left out under load.")
@configured
def retry_movies(
    names: tuple[str, ...],
    state: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    what_was_shed: bool,
) -> int:
    """Process movies again; a finished one gets a new revision.

    MOVIE is an id, a path, a file name or EPU's hole, as for movies show. With several, one that is refused does not
    stop the others; exit status 1 means that some were refused.
    """
    settings = load_config(config, overrides)
    if [bool(names), state is not None, what_was_shed].count(True) != 1:
        what = "choose the movies in one way"
        hint = "streamer movies list shows what there is"
        raise UsageError(what, expected="either MOVIE..., --state or --what-was-shed", hint=hint)
    chosen = list(names) or _chosen(settings, state)
    if not chosen:
        click.echo(f"no movie is {state}" if state else "no movie has steps left out", err=True)
        return 0
    done: set[str] = set()
    refused = 0
    with operator(settings) as tell:
        for name in chosen:
            try:
                movie_id = _meant(settings, name) if names else name
                if movie_id in done:
                    continue
                result = tell("retry", movie_id=movie_id)
            except (UsageError, ProtocolError) as error:
                if len(names) == 1:
                    raise
                refused += 1
                click.echo(printable(str(error)), err=True)
            else:
                done.add(movie_id)
                click.echo(f"{printable(name)}: {result['state']}, revision {result['revision']}")
    return int(refused > 0)


def _meant(config: Config, name: str) -> str:
    """Id of the movie that is meant; without a journal here the name itself, which a running daemon may know."""
    if not layout_of(config).journal.is_file():
        return name
    with reading(config) as journal:
        return journal.movies.named(name).movie_id


def _chosen(config: Config, state: str | None) -> list[str]:
    """Ids of all movies in a state, or with None of those with steps left out under load, oldest first."""
    with reading(config) as journal:
        if state is None:
            return journal.movies.with_shed()
        return [movie.movie_id for movie in journal.movies.every(state)]


@movies.command("skip")
@click.argument("name", metavar="MOVIE")
@click.option("--reason", default="by the operator", show_default=True, help="Recorded in the journal and the event.")
@configured
def skip_movie(name: str, reason: str, config: Path | None, overrides: tuple[str, ...]) -> None:
    """Skip a movie that is waiting, in progress or failed.

    MOVIE is an id, a path, a file name or EPU's hole, as for movies show.
    """
    settings = load_config(config, overrides)
    with operator(settings) as tell:
        tell("skip", movie_id=_meant(settings, name), reason=reason)
    click.echo(f"{printable(name)}: skipped")


def _summary(movie: JournalMovie) -> dict[str, Any]:
    return movie.summary() | {"path": printable(movie.relative)}
