"""Denoiser commands: train a version, probe it, apply it to a finished movie."""

from __future__ import annotations

from pathlib import Path

import click

from models.manifest import DENOISERS
from service.cli.options import SEED, Number, OutputDirectory
from service.printable import printable
from streamer import jsontext
from streamer.errors import UsageError

_JSON = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")


@click.command("train")
@click.argument("directories", metavar="[OUTPUT_DIRECTORY]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=OutputDirectory(), required=True, help="Directory to create for the new version.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Training budget in steps.  [default: session_model.first_steps]"
)
@click.option("--seconds", type=Number(0.1), help="Training budget in seconds instead.")
@click.option(
    "--start", type=click.Path(path_type=Path), help="Directory of a version to start from.  [default: from scratch]"
)
@click.option(
    "--base",
    "as_base",
    is_flag=True,
    help="Train base weights that any session can start from, on simulated sessions of many specimens and on the "
    "directories, if any. 36000 steps unless a budget is given.",
)
@click.option(
    "--specimens",
    type=click.IntRange(min=1),
    default=130,
    show_default=True,
    help="With --base: number of simulated specimens to train on; ten more are held out for judging.",
)
@click.option("--device", default="cpu", show_default=True, help="With --base: cpu, cuda or cuda:NUMBER.")
@click.option(
    "--seed",
    type=SEED,
    default=20,
    show_default=True,
    help="The same seed gives the same weights.",
)
@click.option(
    "--network",
    type=click.Choice(list(DENOISERS)),
    default="small",
    show_default=True,
    help="Network to train; with --start, that of its version.",
)
@click.option(
    "--ctf",
    type=click.Path(path_type=Path),
    help="STAR file with the movies' defocus: trains on phase-flipped images; denoise then needs one too.",
)
@_JSON
def train_model(
    directories: tuple[Path, ...],
    out: Path,
    steps: int | None,
    seconds: float | None,
    start: Path | None,
    seed: int,
    network: str,
    specimens: int,
    device: str,
    ctf: Path | None,
    *,
    as_base: bool,
    as_json: bool,
) -> int:
    """Train a denoiser version on finished movies.

    The movies must have been processed with --keep-groups. A quarter of them is held out, and the gate judges the
    version on these. The version is written with the verdict whether or not it passes; exit status 1 means that it
    did not.
    """
    from service.offline.train_base_weights import pretrain
    from service.offline.train_denoiser import train_offline

    if steps and seconds:
        raise UsageError("give a budget in steps or in seconds, not both", hint="give --steps or --seconds")
    if as_base and (start or ctf):
        raise UsageError(
            "--base trains from scratch, on images without phase flipping",
            found="--start or --ctf",
            hint="leave that out, or train without --base",
        )
    if not (as_base or directories):
        raise UsageError(
            "no movies to train on",
            expected="OUTPUT_DIRECTORY..., or --base",
            hint="process movies with --keep-groups, and give their output directories",
        )
    if out.exists():
        raise UsageError("a version of this name already exists", where=out, hint="choose another name")
    places, out = list(directories), out.absolute()
    if as_base:
        result = pretrain(
            places,
            out,
            specimens=specimens,
            steps=steps,
            seconds=seconds,
            network=network,
            seed=seed,
            device=device,
            tell=lambda words: click.echo(words, err=True),
        )
    else:
        result = train_offline(
            places, out, steps=steps, seconds=seconds, base=start, network=network, seed=seed, ctf=ctf
        )
    if as_json:
        click.echo(jsontext.shown(result).decode())
    else:
        click.echo(f"{printable(result.directory)}\n{result.decision.result}: {result.decision.reason}")
    return int(result.decision.result != "promoted")


@click.command("probe")
@click.argument("version", type=click.Path(path_type=Path))
@click.argument("directories", metavar="OUTPUT_DIRECTORY...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--ctf", type=click.Path(path_type=Path), help="STAR file with the defocus, for a version trained with --ctf."
)
@_JSON
def probe_model(version: Path, directories: tuple[Path, ...], ctf: Path | None, *, as_json: bool) -> int:
    """Test whether a version invents signal.

    It is applied to noise, to a blank and to another movie's signal. VERSION is a directory; the movies must have been
    processed with --keep-groups, and those that the version was trained on are left out. Exit status 1 means that it
    fails a limit of the gate.
    """
    from service.offline.train_denoiser import probe

    found = probe(version, list(directories), ctf)
    if as_json:
        click.echo(jsontext.shown(found).decode())
    else:
        for name, value in found.probes.items():
            click.echo(f"{name:22} {value:8.4f}  {found.limits.get(name, '')}")
        click.echo(found.failure or f"passes, on {found.movies} movies that it was not trained on")
    return int(bool(found.failure))


@click.command()
@click.argument("directory", metavar="MOVIE_OUTPUT_DIRECTORY", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Directory of the version to apply.")
@click.option("--output", type=OutputDirectory(), required=True, help="Directory for the images.")
@click.option(
    "--ctf", type=click.Path(path_type=Path), help="STAR file with the defocus, for a version trained with --ctf."
)
@_JSON
def denoise(directory: Path, model: Path, output: Path, ctf: Path | None, *, as_json: bool) -> None:
    """Apply a denoiser to a finished movie's sum and half sums."""
    from service.offline.stages import denoise_to

    found = denoise_to(directory, model, output.absolute(), ctf)
    if as_json:
        click.echo(jsontext.shown(found).decode())
    else:
        figures = f"SNBR* half {_text(found.snbr_half_denoised)}, Wiener {_text(found.snbr_half_wiener)}"
        refused = [f"the network was not applied: {found.refused}"] if found.refused else []
        raised = " (the detector's pattern may have raised them)" if found.pattern_may_raise else ""
        click.echo("\n".join([*map(printable, found.files), f"{found.restoration}, {figures}{raised}", *refused]))


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
