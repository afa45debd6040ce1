"""Defocus of micrographs as other programs wrote it: RELION's and CTFFIND's STAR columns, 3.0 or with optics groups."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import gemmi

from streamer.ctf.transfer import Optics
from streamer.errors import UsageError

_HALVES = ("_EVN", "_ODD", "_even", "_odd", "_Even", "_Odd", "_denoised", "_DW", "_fractions", "_Fractions", "_groups")
_COLUMNS = ("_rlnMicrographName", "_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle")
_OPTICS = ("_rlnVoltage", "_rlnSphericalAberration", "_rlnAmplitudeContrast")
_HINT = "give a STAR file of micrographs with their CTF, such as RELION's micrographs_ctf.star"


def key_of(name: str) -> str:
    """The stem that halves, denoised images and the micrograph itself share: the name without such endings."""
    stem = PurePosixPath(name).name
    stem = stem[: stem.rindex(".")] if "." in stem else stem
    shorter = True
    while shorter:
        shorter = False
        for ending in _HALVES:
            if stem.endswith(ending) and len(stem) > len(ending):
                stem, shorter = stem.removesuffix(ending), True
    return stem


def optics_of(table: dict[str, Optics], name: str, where: Path) -> Optics:
    """Optics of a micrograph by the name of any of its files; raises UsageError where the table has none."""
    optics = table.get(key_of(name))
    if optics is None:
        found = ", ".join(sorted(table)[:3])
        raise UsageError(
            "the CTF of a micrograph is missing",
            where=where,
            expected=key_of(name),
            found=f"{found} …",
            hint="give a STAR file that lists this micrograph, or leave it out",
        )
    return optics


def read_optics(path: Path) -> dict[str, Optics]:
    """Optics by ``key_of`` the micrograph's name.

    Raises
    ------
    UsageError
        If the file cannot be read or contains no such table.
    """
    try:
        document = gemmi.cif.read(str(path))
    except OSError as error:
        raise UsageError(f"the CTF cannot be read: {error.strerror or error}", where=path, hint=_HINT) from error
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the CTF cannot be read: {error}", where=path, hint=_HINT) from error
    groups: dict[str, list[str]] = {}
    for block in document:
        for row in block.find(["_rlnOpticsGroup", *_OPTICS]):
            groups.setdefault(row[0], [row[i] for i in (1, 2, 3)])
    found: dict[str, Optics] = {}
    for block in document:
        table = block.find([*_COLUMNS, "?_rlnPhaseShift", "?_rlnOpticsGroup", *(f"?{name}" for name in _OPTICS)])
        for row in table:
            own = [row[i] if row.has(i) else None for i in range(4, 9)]
            shared = groups.get(own[1] or "", [None] * 3)
            voltage, cs, contrast = (a or b for a, b in zip(own[2:], shared, strict=True))
            try:
                u, v, angle, shift = (float(x) for x in (row[1], row[2], row[3], own[0] or 0.0))
                optics = Optics(
                    defocus_u_um=u * 1e-4,
                    defocus_v_um=v * 1e-4,
                    astigmatism_angle_deg=angle,
                    voltage_kv=float(voltage or "nan"),
                    cs_mm=float(cs or "nan"),
                    amplitude_contrast=float(contrast or "nan"),
                    phase_shift_deg=shift,
                )
            except ValueError as error:
                raise UsageError(f"not a number: {error}", where=path, hint=_HINT) from error
            values = (u, v, angle, shift, optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast)
            if not all(math.isfinite(x) for x in values):
                raise UsageError(
                    f"the CTF is incomplete for {row[0]}",
                    where=path,
                    expected="defocus, voltage, spherical aberration and amplitude contrast, in it or its optics group",
                    hint=_HINT,
                )
            found[key_of(row.str(0))] = optics
    if not found:
        raise UsageError("contains no CTF", where=path, expected=", ".join(_COLUMNS), hint=_HINT)
    return found
