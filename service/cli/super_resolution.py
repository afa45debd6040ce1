"""Super-resolution commands: super-resolve a movie, train a network for it."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec.structs import replace

from service.cli.options import SEED, OutputDirectory, configured, exposure, load_config
from service.printable import printable
from streamer import jsontext
from streamer.errors import UsageError

_METHOD = click.option(
    "--method",
    type=click.Choice(["fusion", "zssr"]),
    help="Fusion of the raw frames, or cryo-ZSSR as published.  [default: super_resolution.method]",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")


def _overrides(overrides: tuple[str, ...], method: str | None, model: Path | None = None) -> tuple[str, ...]:
    """Setting overrides that the options stand for."""
    chosen = () if method is None else (f"super_resolution.method={method}",)
    return (*overrides, *chosen, *(() if model is None else (f"super_resolution.model={model.absolute()}",)))


@click.command("super-resolve")
@click.argument("path", metavar="MOVIE", type=click.Path(path_type=Path))
@click.option("--output", type=OutputDirectory(), required=True, help="Directory for the image.")
@_METHOD
@click.option("--model", type=click.Path(path_type=Path), help="Directory of a network version for the method.")
@click.option("--per-movie", is_flag=True, help="zssr: train on this movie alone (default without --model).")
@configured
@exposure
@_JSON
def super_resolve(
    path: Path,
    output: Path,
    method: str | None,
    model: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    per_movie: bool,
    as_json: bool,
) -> None:
    """Make an image at half the pixel size, with a verdict.

    The verdict says whether its extra detail can be trusted.
    """
    from service.offline.stages import super_resolve_to

    settings = load_config(config, _overrides(overrides, method, model))
    chosen = settings.super_resolution
    if per_movie and chosen.method != "zssr":
        raise UsageError(
            "only cryo-ZSSR can be trained on a single movie",
            where="--per-movie",
            expected="--method zssr",
            hint="add --method zssr, or leave --per-movie out",
        )
    if per_movie and chosen.model is not None:
        raise UsageError(
            "use a version or train on the movie, not both",
            where="--per-movie",
            found="--model",
            hint="leave one of the two out",
        )
    if chosen.method == "zssr" and chosen.model is None:
        # one movie has no session to learn from
        settings = replace(settings, super_resolution=replace(chosen, per_movie=True))
    found = super_resolve_to(path, settings, output.absolute())
    if as_json:
        click.echo(jsontext.shown(found).decode())
    else:
        noted = f"  [{printable('; '.join(found.flags))}]" if found.flags else ""
        click.echo(f"{printable(found.image)}\n{found.sr.verdict}: {found.sr.reason}{noted}")


@click.command("train-super-resolution")
@click.argument("paths", metavar="MOVIE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=OutputDirectory(), required=True, help="Directory to create for the new version.")
@_METHOD
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Training budget in steps.  [default: session_model.first_steps; zssr: until the error settles]",
)
@click.option("--seed", type=SEED, default=20, show_default=True, help="The same seed gives the same weights.")
@configured
@exposure
@_JSON
def train_super_resolution(
    paths: tuple[Path, ...],
    out: Path,
    method: str | None,
    steps: int | None,
    seed: int,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    as_json: bool,
) -> int:
    """Train a super-resolution network on raw movies.

    For fusion, a quarter of the movies is held out to judge the version. The version is written whether or not it
    passes; exit status 1 means that it did not. cryo-ZSSR is trained as published and has no gate.
    """
    from service.offline.train_super_resolution import train_super_resolution as train

    if out.exists():
        raise UsageError("a version of this name already exists", where=out, hint="choose another name")
    settings = load_config(config, _overrides(overrides, method))
    result = train(paths, settings, out.absolute(), steps=steps, seed=seed)
    if as_json:
        click.echo(jsontext.shown(result).decode())
    else:
        verdict = "promoted" if result.promoted else "rejected"
        click.echo(f"{printable(result.directory)}\n{verdict}: {result.reason}, {result.steps} steps")
    return int(not result.promoted)
