"""The command that estimates the CTF of one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.options import Number, configured, load_config, optics
from service.printable import printable
from streamer import jsontext

if TYPE_CHECKING:
    from streamer.transfer_figures import CtfFigures

_RESOLUTION = Number(0.5, 1000)
_DEFOCUS = Number(0.05, 20)
_PHASE = Number(-180, 360)


@click.command()
@click.argument("image", metavar="IMAGE", type=click.Path(path_type=Path))
@click.option(
    "--power-spectrum",
    is_flag=True,
    help="IMAGE is a power spectrum with frequency 0 in the centre: powers or amplitudes, not their logarithm.",
)
@click.option(
    "--fit-band",
    type=(_RESOLUTION, _RESOLUTION),
    help="Coarse and fine end of what is fitted, Å.  [default: ctf.band_low and ctf.band_high, 25 3]",
)
@click.option(
    "--defocus-range",
    type=(_DEFOCUS, _DEFOCUS),
    help="Minimum and maximum underfocus that are looked for, µm.  [default: ctf.defocus_low_um and …_high_um, 0.2 6]",
)
@click.option(
    "--phase-shift",
    type=(_PHASE, _PHASE),
    help="With a phase plate: minimum and maximum phase shift, degrees; the same number twice if it is known."
    "  [default: ctf.phase_shift_low and …_high, no phase plate]",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the spectrum with the fit in one half, and the curve along the spatial frequency, as SVG.",
)
@configured
@optics
@click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
def ctf(
    image: Path,
    fit_band: tuple[float, float] | None,
    defocus_range: tuple[float, float] | None,
    phase_shift: tuple[float, float] | None,
    picture: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    *,
    power_spectrum: bool,
    as_json: bool,
) -> None:
    """Estimate defocus and astigmatism of a micrograph, with their standard deviations."""
    from service.offline.ctf import CtfRequest, ctf_of
    from streamer.writers.atomic import write_atomically

    settings = load_config(config, overrides)
    usual = settings.ctf
    request = CtfRequest(
        image=image,
        is_power_spectrum=power_spectrum,
        fit_band=fit_band or (usual.band_low, usual.band_high),
        defocus_um=defocus_range or (usual.defocus_low_um, usual.defocus_high_um),
        phase_shift=phase_shift or (usual.phase_shift_low, usual.phase_shift_high),
    )
    figures, drawing = ctf_of(request, settings, with_picture=picture is not None)
    if picture is not None and drawing is not None:
        write_atomically(picture, drawing)
    click.echo(jsontext.shown(figures).decode() if as_json else printable_figures(figures))


def printable_figures(figures: CtfFigures) -> str:
    """The figures for people, a line each."""
    notes = [f"note: {printable(flag)}" for flag in figures.flags]
    if figures.state == "none":
        return "\n".join(["no rings were found, so no defocus is stated", *_evidence(figures), *notes])
    lines = [
        f"CTF {figures.state}",
        _line("defocus U", figures.defocus_u_angstrom, figures.defocus_u_sd_angstrom, "Å", 0),
        _line("defocus V", figures.defocus_v_angstrom, figures.defocus_v_sd_angstrom, "Å", 0),
        _line("astigmatism", figures.astigmatism_angstrom, figures.astigmatism_sd_angstrom, "Å", 0),
        _line("its angle", figures.astigmatism_angle_deg, figures.astigmatism_angle_sd_deg, "°", 1),
    ]
    if figures.phase_shift_sd_deg is not None:
        lines.append(_line("phase shift", figures.phase_shift_deg, figures.phase_shift_sd_deg, "°", 1))
    resolutions = (
        ("fit resolution", figures.fit_resolution_angstrom),
        ("as CTFFIND says it", figures.ctffind_resolution_angstrom),
        ("as cryoSPARC says it", figures.cryosparc_resolution_angstrom),
    )
    lines += [f"{name:20} " + ("-" if value is None else f"{value:.2f} Å") for name, value in resolutions]
    if figures.ice_ring_excess is not None and figures.ice_ring_angstrom is not None:
        lines.append(f"{'ice ring':20} {100 * figures.ice_ring_excess:+.1f} % at {figures.ice_ring_angstrom:.2f} Å")
    return "\n".join([*lines, *_evidence(figures), *notes])


def _line(name: str, value: float | None, sd: float | None, unit: str, digits: int) -> str:
    spread = "" if sd is None else f" ± {sd:.{max(digits, 1)}f}"
    return f"{name:20} " + ("-" if value is None else f"{value:.{digits}f}{spread} {unit}")


def _evidence(figures: CtfFigures) -> list[str]:
    """What the answer rests on."""
    if figures.gain is None or figures.search_score is None:
        return []
    return [f"{'evidence':20} {figures.gain:.0f} of log-likelihood, peak of {figures.search_score:.1f} σ over defocus"]
