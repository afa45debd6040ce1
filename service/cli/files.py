"""Commands that work on files: all stages of a movie offline, or a single stage."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.options import Number, OutputDirectory, Physical, configured, exposure, load_config
from service.printable import printable
from streamer import jsontext
from streamer.plausible import PIXEL_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.movie_record import MovieQuality

_MOVIES = click.argument("paths", metavar="MOVIE...", nargs=-1, required=True, type=click.Path(path_type=Path))
_PIXEL = replace(PIXEL_SIZE, least=0.05, most=100.0)
"""Of images that were made finer, or binned, too."""
_BAND_END = Number(0.01, 1_000_000)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")


@click.command()
@_MOVIES
@click.option(
    "--output", type=OutputDirectory(), required=True, help="Output directory; a session directory is created in it."
)
@click.option("--model", help="Version of the session model: name or directory.  [default: the Wiener estimate]")
@click.option("--force", is_flag=True, help="Process a file even if it looks like something else than a movie.")
@click.option("--keep-groups", is_flag=True, help="Keep the frame-group sums, which models train needs.")
@configured
@exposure
@_JSON
def process(
    paths: tuple[Path, ...],
    output: Path,
    model: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    force: bool,
    keep_groups: bool,
    as_json: bool,
) -> int:
    """Process movies exactly as the daemon does."""
    from service.daemon.micrograph_tables import MicrographTables
    from service.offline.process import finished_before, prepare, process_all

    extra = ("outputs.keep_groups=true",) if keep_groups else ()
    prepared = prepare(load_config(config, (*overrides, *extra)), model)
    output, failed = output.absolute(), 0
    tables = MicrographTables(lambda session: output / session, partial(finished_before, output))
    for path, record in zip(paths, process_all(list(paths), prepared, output, whatever=force), strict=True):
        if as_json:
            click.echo(jsontext.shown(record).decode())
        if record.state != "done":
            failed += 1
            click.echo(_about(path, record.reason.message if record.reason else record.state), err=True)
            continue
        tables.add(record)
        if not as_json:
            figure = _ssnr(record.metrics)
            name = printable(str(output / record.session / record.outputs[0].path))
            click.echo(f"{name}  {figure}, {record.restoration}{_noted(record.flags)}")
    tables.write(now=True)
    return int(failed > 0)


def _ssnr(metrics: MovieQuality | None) -> str:
    """The SSNR in words; one that the detector's pattern may have raised is marked."""
    if metrics is None or metrics.ssnr_full is None:
        return "no signal"
    mark = " (the detector's pattern may have raised it)" if metrics.pattern_may_raise else ""
    return f"SSNR {metrics.ssnr_full:.3g}{mark}"


def _about(path: Path, message: str) -> str:
    """The error with its movie, unless the message already names it, as typed or in full."""
    named = message.startswith((f"{path}: ", f"{path.absolute()}: ", f"{path.resolve()}: "))
    return printable(message if named else f"{path}: {message}")


def _noted(flags: Sequence[str]) -> str:
    """Flags of a result, in brackets."""
    return f"  [{printable('; '.join(flags))}]" if flags else ""


@click.command()
@click.argument("path", metavar="MOVIE", type=click.Path(path_type=Path))
@configured
@exposure
@_JSON
def motion(path: Path, config: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Estimate the shifts that align each frame with the first."""
    from service.offline.stages import motion_of

    found = motion_of(path, load_config(config, overrides))
    if as_json:
        click.echo(jsontext.shown(found).decode())
        return
    total = found.total_motion_angstrom
    words = "motion unknown (too little information)" if total is None else f"{total:.2f} Å in total"
    click.echo(f"{found.frames} frames, {words}{_noted(found.flags)}")
    for index, (y, x) in enumerate(found.shifts_yx_px):
        click.echo(f"{index:4d}  y {y:8.3f}  x {x:8.3f} px")


@click.command()
@click.argument("even", type=click.Path(path_type=Path))
@click.argument("odd", type=click.Path(path_type=Path))
@click.option("--denoised-even", type=click.Path(path_type=Path), help="The even half as restored by a denoiser.")
@click.option("--denoised-odd", type=click.Path(path_type=Path), help="The odd half, likewise.")
@click.option(
    "--band",
    type=(_BAND_END, _BAND_END),
    default=(100.0, 6.0),
    show_default=True,
    help="Coarse and fine end of the pooled band, Å.",
)
@click.option("--pixel-size", type=Physical(_PIXEL), help="Pixel size, Å/px.  [default: from the header]")
@click.option(
    "--ctf", type=click.Path(path_type=Path), help="STAR file with the defocus: also checks the zeros of the CTF."
)
@_JSON
def quality(
    even: Path,
    odd: Path,
    denoised_even: Path | None,
    denoised_odd: Path | None,
    band: tuple[float, float],
    pixel_size: float | None,
    ctf: Path | None,
    *,
    as_json: bool,
) -> None:
    """Judge half images, or a denoiser applied to each half.

    Works on any program's halves: two files, or two directories with one file per micrograph, matched by name. The
    denoiser must be applied to each half separately and must not have been trained on them.
    """
    from streamer.quality.of_files import quality_of

    found = quality_of(even, odd, denoised_even, denoised_odd, band, pixel_size, ctf)
    if as_json:
        click.echo(jsontext.shown(found).decode())
        return
    click.echo("   1/Å       Å      FRC  SSNR half  SSNR full" + ("    gamma    SNBR*" if denoised_even else ""))
    for shell in found.shells[:: max(1, len(found.shells) // 24)]:
        frequency = shell["spatial_frequency"] or 0.0  # the first shell is that of the mean
        resolution = f"{1.0 / frequency:7.1f}" if frequency else "      -"
        names = ("frc", "ssnr_half", "ssnr_full", *(("gamma", "snbr") if denoised_even else ()))
        values = "  ".join(_figure(shell.get(name)) for name in names)
        click.echo(f"{frequency:6.4f}  {resolution}  {values}")
    several = f"{found.micrographs} micrograph{'s' if found.micrographs > 1 else ''}"
    low, high = (_length(found.pooled[f"band_{end}_angstrom"]) for end in ("low", "high"))
    click.echo(f"pooled over {several}, {low} to {high} Å; 95 % intervals over {found.intervals_over}")
    for name, value in found.pooled.items():
        ends = found.intervals.get(name)
        between = "" if ends is None else f"  {_figure(ends[0])} to {_figure(ends[1]).strip()}"
        if not name.startswith("band_"):
            click.echo(f"  {name:12} {_figure(value)}{between}")
    if found.pattern_may_raise:
        click.echo(
            f"NOTE {found.pattern_may_raise} of {several}: no gain corrected the frames, or not wholly; the "
            "detector's pattern may have raised the figures"
        )
    for check in found.checks:
        verdict = "ok" if check["ok"] else "FAILED"
        known = check["value"] is not None and check["limit"] is not None
        figure = f"{check['value']:.3g} (limit {check['limit']:.3g})" if known else "nothing to look at"
        click.echo(f"check {check['name']}: {verdict}, {figure}")
        if not check["ok"]:
            click.echo(f"  {check['meaning']}")


def _length(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _figure(value: float | None) -> str:
    return "       -" if value is None else f"{value:8.4f}"
