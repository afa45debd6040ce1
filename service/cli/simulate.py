"""Turns the options of ``streamer simulate`` into a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.errors import UsageError
from streamer.simulation.microscope import Plan
from streamer.simulation.movie import Microscope
from streamer.simulation.scenes.kinds import kind_of, recipe_of
from streamer.simulation.scenes.motions import motion_of
from streamer.simulation.specimen import Specimen, apoferritin, random_protein, read_model

if TYPE_CHECKING:
    from collections.abc import Mapping


def specimen_of(name: str, seed: int) -> Specimen | None:
    """Specimen by its name on the command line."""
    if name == "ice":
        return None
    if name == "apoferritin":
        return apoferritin()
    if name == "random":
        return random_protein(seed)
    if Path(name).exists():
        return read_model(Path(name))
    raise UsageError(
        "unknown specimen",
        where="--specimen",
        expected="apoferritin, random, ice, or a PDB or mmCIF file",
        found=name,
        hint="choose one of these, or check the name of the file",
    )


def _check(options: Mapping[str, Any]) -> None:
    """Check what no option's own range can express."""
    if options["scene"] is not None:
        recipe_of(kind_of(options["scene"], 0, 0))
    if options["motion"] is not None:
        motion_of(options["motion"])
    low, high = options["defocus"]
    if low > high:
        raise UsageError(
            "the range is empty",
            where="--defocus",
            expected="the minimum, then the maximum",
            found=f"{low:g} {high:g}",
            hint="exchange the two",
        )
    last = options["first"] + options["movies"] - 1
    for number in options["corrupt"]:
        if not options["first"] <= number <= last:
            raise UsageError(
                "no movie has this number",
                where="--corrupt",
                expected=f"{options['first']} to {last}",
                found=number,
                hint="movies are counted from --first",
            )


def plan_of(directory: Path, specimen: str, seed: int, options: Mapping[str, Any]) -> Plan:
    """Plan of a session; raises UsageError where two options contradict each other."""
    _check(options)
    scope = Microscope(
        shape=options["size"],
        n_frames=options["frames"],
        pixel_size=options["pixel_size"],
        dose_per_frame=options["dose_per_frame"],
        voltage_kv=options["voltage_kv"],
        defocus_um=options["defocus"],
        coverage=options["coverage"],
    )
    return Plan(
        directory=directory,
        movies=options["movies"],
        scope=scope,
        specimen=specimen_of(specimen, seed),
        scene=options["scene"],
        motion=options["motion"],
        seed=seed,
        layout=options["layout"],
        format=options["kind"],
        mode=options["mode"],
        interval_s=options["interval"],
        write_s=options["write_time"],
        first=options["first"],
        per_square=options["per_square"],
        corrupt=frozenset(options["corrupt"]),
        truth=options["truth"],
    )
