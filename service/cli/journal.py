"""Commands for the journal as a whole: check it, rebuild it, export it for other programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from service.cli.movies import reading
from service.cli.options import configured, load_config
from service.layout import layout_of
from service.printable import printable
from service.wire.messages import KINDS
from streamer import jsontext
from streamer.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_JSON = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")


@click.group()
def journal() -> None:
    """Check, rebuild or export the journal of movies and events."""


@journal.command("check")
@configured
@click.option(
    "--newest",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Number of newest movies whose outputs are hashed.",
)
@click.option(
    "--all", "hash_all", is_flag=True, help="Hash the outputs of all movies; takes hours for a large session."
)
@_JSON
def check_journal(
    config: Path | None, overrides: tuple[str, ...], newest: int, *, hash_all: bool, as_json: bool
) -> int:
    """Check the file, the event numbers and the newest outputs.

    Outputs are checked by their hashes. A daemon may be running. Exit status 1 means that a problem was found.
    """
    from service.journal.recovery import check

    settings = load_config(config, overrides)
    with reading(settings) as opened:
        findings = list(check(opened, layout_of(settings), newest=None if hash_all else newest))
        counts, events = opened.movies.counts_by_state(), opened.events.last_seq
    if as_json:
        click.echo(jsontext.shown({"findings": findings, "movies": counts, "last_seq": events}).decode())
    else:
        for finding in findings:
            click.echo(printable(f"{finding.where}: {finding.what}"))
        states = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none"
        click.echo(f"movies: {states}; events: {events}; problems: {len(findings) or 'none'}")
    return int(bool(findings))


@journal.command("recover")
@configured
@click.option("--force", is_flag=True, help="Rebuild even if the journal is sound.")
@click.option("--hash", "hash_all", is_flag=True, help="Compare the hash of every output, not only its size.")
@_JSON
def recover_journal(
    config: Path | None, overrides: tuple[str, ...], *, force: bool, hash_all: bool, as_json: bool
) -> int:
    """Rebuild a lost or damaged journal from the output records.

    Stop the daemon first. The old file is set aside, subscribers see a new epoch, and unfinished movies are found
    again. Exit status 1 means that some records could not be used; their movies are processed again.
    """
    from service.journal.recovery import recover

    settings = load_config(config, overrides)
    layout = layout_of(settings)
    found = recover(layout, settings.instance.name, force=force, hash_all=hash_all)
    if as_json:
        click.echo(jsontext.shown(found._asdict() | {"set_aside": str(found.set_aside or "")}).decode())
        return int(bool(found.refused))
    for finding in found.refused:
        click.echo(printable(f"{finding.where}: {finding.what}"), err=True)
    if found.set_aside:
        click.echo(f"the old journal was moved to {printable(str(found.set_aside))}")
    click.echo(
        f"{printable(str(layout.journal))}: {found.movies} movies recovered, {len(found.refused)} records refused"
    )
    return int(bool(found.refused))


@journal.command("export")
@configured
@click.option(
    "--what", type=click.Choice(["movies", "events"]), default="movies", show_default=True, help="What to export."
)
@click.option("--kind", type=click.Choice(KINDS), help="Export only events of this kind.")
def export_journal(config: Path | None, overrides: tuple[str, ...], what: str, kind: str | None) -> None:
    """Print all movies or all events as JSON lines.

    Movies include their records; events are printed as they were published.
    """
    from service.journal.recovery import exported_events, exported_movies

    if kind and what != "events":
        raise UsageError(
            "--kind applies to events only",
            where="--what",
            found=what,
            expected="events",
            hint="add --what events, or leave --kind out",
        )
    with reading(load_config(config, overrides)) as opened:
        for line in exported_events(opened, kind) if what == "events" else exported_movies(opened):
            sys.stdout.write(line.decode() + "\n")
