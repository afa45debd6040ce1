"""Which values a cryo-electron microscope can have, and in which unit a value that it cannot have was probably given.

Settings, command line and sidecars are all held against these: a pixel size in metres would go through every
calculation without complaint. The ranges are wide; what lies inside, but is seldom met, is only doubted. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity with its unit and the values that it can have."""

    name: str
    unit: str
    least: float
    most: float
    usual: tuple[float, float]
    """Outside, but possible: doubted."""
    likely: tuple[float, float]
    """What a value in another unit must come to for that unit to be a likely explanation."""
    mistaken: tuple[tuple[str, float], ...] = ()
    """Units that people and programs use instead, each with the factor that leads to ``unit``; the likeliest first."""
    trap: tuple[float, float] = (math.inf, math.inf)
    """Possible values that are all the same more likely in another unit."""
    beyond: tuple[float, str] = (-math.inf, "")
    """What a value above ``most`` probably is, up to the value given."""

    @property
    def range(self) -> str:
        """The values that it can have, in words."""
        return f"{self.least:.10g} to {self.most:.10g}{self._unit}"

    def problem(self, value: float) -> str | None:
        """Why it cannot have this value, with the likely intention; None: it can."""
        is_trap = self.trap[0] <= value <= self.trap[1]
        if self.least <= value <= self.most and not is_trap:
            return None
        said = f"in {self.unit}" if self.unit else "a fraction, 0 to 1"
        if self.most < value <= self.beyond[0]:
            return f"{said}; {value:g} looks like {self.beyond[1]}"
        instead = self._instead(value)
        if instead is None:
            return f"{said}; a microscope gives {self.range}"
        return f"{said}; {value:g} looks like {instead[0]}: {instead[1]:.6g}"

    def doubt(self, value: float) -> str | None:
        """What is unusual about a possible value; None: nothing, or it is not possible at all."""
        low, high = self.usual
        if self.problem(value) is not None or low <= value <= high:
            return None
        words = f"{value:g}{self._unit} is unusual for the {self.name}; usual are {low:g} to {high:g}{self._unit}"
        instead = self._instead(value)
        return words if instead is None else f"{words}; if it is in {instead[0]}, it means {instead[1]:.6g}"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def _instead(self, value: float) -> tuple[str, float] | None:
        """Unit that the value was probably given in, and what it comes to."""
        low, high = self.likely
        if not math.isfinite(value) or low <= value <= high:
            return None
        return next(((unit, value * factor) for unit, factor in self.mistaken if low <= value * factor <= high), None)


PIXEL_SIZE = Quantity(
    name="pixel size",
    unit="Å/px",
    least=0.2,
    most=20.0,
    usual=(0.3, 12.0),
    likely=(0.3, 12.0),
    mistaken=(("nm", 10.0), ("metres", 1e10), ("pm", 0.01), ("µm", 1e4), ("mm", 1e7)),
)
"""Super-resolution pixels of the highest magnifications are 0.25 Å, those of low-magnification tomography 15 Å."""
VOLTAGE = Quantity(
    name="acceleration voltage",
    unit="kV",
    least=40.0,
    most=1300.0,
    usual=(80.0, 300.0),
    likely=(60.0, 1300.0),
    mistaken=(("volts", 1e-3), ("MV", 1e3)),
)
CS = Quantity(
    name="spherical aberration",
    unit="mm",
    least=0.0,
    most=10.0,
    usual=(0.0, 6.3),
    likely=(1.1, 4.2),
    trap=(0.0011, 0.0042),
    mistaken=(("metres", 1e3), ("µm", 1e-3), ("nm", 1e-6), ("Å", 1e-7)),
)
"""0, 0.001 and 0.01 mm are what people give for an instrument with a corrector."""
AMPLITUDE_CONTRAST = Quantity(
    name="amplitude contrast",
    unit="",
    least=0.0,
    most=1.0,
    usual=(0.0, 0.5),
    likely=(0.01, 1.0),
    mistaken=(("percent", 0.01),),
)
DOSE_PER_FRAME = Quantity(
    name="dose per frame",
    unit="e⁻/Å²",
    least=0.001,
    most=20.0,
    usual=(0.05, 8.0),
    likely=(0.1, 20.0),
    mistaken=(("e⁻/nm²", 1e-2), ("e⁻/m²", 1e-20)),
    beyond=(200.0, "the dose of the whole movie: divide it by the number of frames"),
)
EXPOSURE = Quantity(
    name="exposure",
    unit="e⁻/Å²",
    least=0.0,
    most=500.0,
    usual=(0.0, 200.0),
    likely=(0.1, 200.0),
    mistaken=(("e⁻/nm²", 1e-2), ("e⁻/m²", 1e-20)),
)
RESOLUTION = Quantity(
    name="resolution",
    unit="Å",
    least=1.0,
    most=10_000.0,
    usual=(1.0, 1000.0),
    likely=(2.0, 1000.0),
    mistaken=(("nm", 10.0), ("metres", 1e10)),
)
"""Ends of bands."""
LARGEST_SHIFT = Quantity(
    name="largest shift",
    unit="Å",
    least=0.1,
    most=10_000.0,
    usual=(5.0, 1000.0),
    likely=(5.0, 1000.0),
    mistaken=(("nm", 10.0), ("metres", 1e10)),
)
"""Of a frame from the mean position."""
MAGNIFICATION = Quantity(
    name="magnification",
    unit="times",
    least=1000.0,
    most=10_000_000.0,
    usual=(2000.0, 2_000_000.0),
    likely=(2000.0, 2_000_000.0),
    mistaken=(("thousands", 1e3),),
)
