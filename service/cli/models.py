"""Commands for the versions of a session's model: inspect, compare, choose the serving one, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.manifest import Manifest, load_manifest
from models.versions.roles import ROLES, Roles
from models.versions.store import ModelStore, copy_version
from service.cli.movies import operator, reading
from service.cli.options import OutputDirectory, configured, load_config
from service.layout import layout_of
from service.printable import printable
from streamer import jsontext
from streamer.errors import ModelError, UsageError

if TYPE_CHECKING:
    from service.config import Config

_JSON = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")


@click.group()
def models() -> None:
    """Inspect, train and choose versions of the session model."""


_SESSION = click.option("--session", help="Session name.  [default: session.name, else the newest]")


@models.command("list")
@configured
@_SESSION
@_JSON
def list_models(config: Path | None, overrides: tuple[str, ...], session: str | None, *, as_json: bool) -> None:
    """List the versions of a session."""
    settings = load_config(config, overrides)
    store = _store(settings, session)
    current = store.current()
    for name in store.versions():
        manifest = load_manifest(store.path(name))
        if as_json:
            click.echo(jsontext.shown({"serves": name == current, "manifest": manifest}).decode())
        else:
            click.echo(f"{'*' if name == current else ' '} {name}  {_figures(manifest)}")
    if not as_json and not store.versions():
        click.echo(f"no versions in {printable(str(store.directory))}", err=True)


@models.command("show")
@click.argument("version")
@configured
@_SESSION
def show_model(version: str, config: Path | None, overrides: tuple[str, ...], session: str | None) -> None:
    """Show a version's manifest.

    VERSION is a name or a directory.
    """
    manifest = load_manifest(_named(config, overrides, session, version))
    click.echo(jsontext.shown(manifest, indent=2).decode())


@models.command("promote")
@click.argument("version")
@configured
@_SESSION
def promote_model(version: str, config: Path | None, overrides: tuple[str, ...], session: str | None) -> None:
    """Use a version from the next movie on."""
    settings = load_config(config, overrides)
    _version(settings, session, version)
    with operator(settings) as tell:
        result = tell("promote", version=version, session=_session(settings, session))
    click.echo(f"{result['version']} is used from the next movie on")


@models.command("rollback")
@configured
@_SESSION
def rollback_model(config: Path | None, overrides: tuple[str, ...], session: str | None) -> None:
    """Go back to the version the current one came from.

    From the first version this leads to the Wiener estimate, and nothing more is trained until models promote chooses
    a version.
    """
    settings = load_config(config, overrides)
    with operator(settings) as tell:
        result = tell("rollback", session=_session(settings, session))
    click.echo(f"{result['version'] or 'no network'} is used from the next movie on")


@models.command("export")
@click.argument("version")
@click.option("--to", "target", type=OutputDirectory(), required=True, help="Directory to create.")
@configured
@_SESSION
def export_model(
    version: str, target: Path, config: Path | None, overrides: tuple[str, ...], session: str | None
) -> None:
    """Copy a version out of its session, verified.

    Set session_model.base to the copy to start the next session from it. VERSION is a name or a directory.
    """
    manifest = copy_version(_named(config, overrides, session, version), target.absolute())
    click.echo(f"{printable(str(target))}: {_figures(manifest)}")


@models.command("compare")
@click.argument("first")
@click.argument("second")
@click.argument("directories", metavar="[OUTPUT_DIRECTORY]...", nargs=-1, type=click.Path(path_type=Path))
@configured
@_SESSION
@_JSON
def compare_models(
    first: str,
    second: str,
    directories: tuple[Path, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    session: str | None,
    *,
    as_json: bool,
) -> None:
    """Compare two versions on movies new to both.

    Versions are names or directories. The movies are those in the given directories (processed with --keep-groups),
    or else the session's held-out ones.
    """
    from service.offline.compare_versions import compare

    places, held_out = list(directories), None
    if not places:
        layout, name = layout_of(load_config(config, overrides)), _session(load_config(config, overrides), session)
        held_out = frozenset(Roles(layout.session_state(name) / ROLES).all_held_out())
        places = [path for path in map(layout.groups, sorted(held_out)) if path.is_file()]
    one, other = (_named(config, overrides, session, version) for version in (first, second))
    found = compare(one, other, places, allowed=held_out)
    if as_json:
        click.echo(jsontext.shown(found).decode())
        return
    for side in (found.first, found.second):
        figures = f"{side.gain:.3f}× Wiener, SNBR* half {side.snbr:.3f}, bias ratio {side.bias_ratio:.4f}"
        click.echo(f"{side.version}  {figures}, loss {side.loss:.4f}")
    low, high = found.loss_interval
    click.echo(
        f"loss of the second against the first {found.loss_difference:+.2%} ({low:+.2%} to {high:+.2%}) "
        f"on {len(found.movies)} movies: {found.verdict}"
    )


def _named(config: Path | None, overrides: tuple[str, ...], session: str | None, version: str) -> Path:
    """Directory of a version given by name or as a directory."""
    return Path(version) if Path(version).is_dir() else _version(load_config(config, overrides), session, version)


def _session(config: Config, named: str | None = None) -> str:
    """The named session, which must exist; without a name, the configured or the newest one."""
    state = layout_of(config).state
    if named is not None:
        known = sorted(path.name for path in (state / "sessions").glob("*") if path.is_dir())
        if named not in known:
            hint = f"known: {', '.join(known) or 'none'}"
            raise UsageError("no network was trained in a session of this name", where=state, found=named, hint=hint)
        return named
    if config.session.name:
        return config.session.name
    if layout_of(config).journal.is_file():
        with reading(config) as journal:
            latest = journal.movies.latest_session()
        if latest is not None:
            return latest
    sessions = sorted((state / "sessions").glob("*/models"), key=lambda p: p.stat().st_mtime_ns)
    if not sessions:
        raise UsageError(
            "there is no session with a model yet",
            where=state,
            hint="the first version appears after the first movies; is this the configuration of that daemon?",
        )
    return sessions[-1].parent.name


def _store(config: Config, session: str | None) -> ModelStore:
    return ModelStore(layout_of(config).models(_session(config, session)))


def _version(config: Config, session: str | None, version: str) -> Path:
    """Directory of a version named by the user."""
    try:
        return _store(config, session).path(version)
    except ModelError as error:
        raise UsageError(error.what, where=error.where, found=error.found, hint=error.hint) from error


def _figures(manifest: Manifest) -> str:
    """One line about a version."""
    origin = "base weights" if manifest.general else f"from {manifest.parent or 'scratch'}"
    text = f"{origin}, {manifest.steps} steps on {len(manifest.trained_on)} movies"
    if manifest.specimen > 1:
        text += f" of specimen {manifest.specimen}"
    if manifest.figures is None or not manifest.figures.scores:
        return text
    scores = manifest.figures.scores
    gain = sum(s.snbr / s.snbr_wiener for s in scores) / len(scores)
    return f"{text}; {gain:.2f}× Wiener on {len(scores)} held-out movies"
