"""One field of a named kind, as the simulator's clean ``Field`` is: frames to be read, and everything that is true."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamer import dose, fourier
from streamer.ctf.transfer import Optics
from streamer.simulation.movie import Detector, Microscope, Truth
from streamer.simulation.scenes import crowd as crowds
from streamer.simulation.scenes import dirt as dirts
from streamer.simulation.scenes import ice, warp
from streamer.simulation.scenes.canvas import Canvas
from streamer.simulation.scenes.imaging import strong_image
from streamer.simulation.scenes.kinds import kind_of, recipe_of
from streamer.simulation.scenes.motions import Movement, motion_of
from streamer.simulation.scenes.structures import STRUCTURES
from streamer.simulation.specimen import Specimen, random_protein
from streamer.units import electrons_per_pixel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Array = NDArray[np.float32]
_PLACES = 9
"""Places along each axis at which the truth says how the field moved."""
_EVERY = 8
_MARGIN = 6.0
"""px around everything that moves, for the spline and the point spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneTruth(Truth):
    """What was really there in a scene. ``bend`` is empty; ``local`` says how the field moved beyond its drift."""

    kind: str
    lasting: Array
    """(2h, 2w) the part of ``image`` that the beam does not damage: crystals, films, thickness."""
    masks: dict[str, NDArray[np.bool_]]
    """Kind (``crystal``, ``carbon``, ``gold``, ``vacuum``) -> (h, w) where it is in the first frame."""
    heights: Array
    """(n,) of the particles, Å above the mean; the defocus there is larger by as much."""
    clear: NDArray[np.bool_]
    """(n,) whether the particle's centre is free of everything in ``masks``."""
    paths: tuple[Array, ...]
    """Axis of each filament, (m, 2) y, x in px of the first frame; empty where there is none."""
    places: Array
    """(9, 9, 2) y, x in px of the first frame."""
    local: Array
    """(t, 9, 9, 2) displacement of these places beyond ``displacement``, px."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w) all that is not specimen."""
        found = np.zeros((self.image.shape[0] // 2, self.image.shape[1] // 2), dtype=bool)
        for where in self.masks.values():
            found |= where
        return found

    def more(self) -> dict[str, Any]:
        """What a clean field's truth has not, by its name in a file."""
        lengths = [len(path) for path in self.paths]
        return {
            "kind": self.kind,
            **{f"mask_{kind}": where for kind, where in self.masks.items()},
            "mask": self.mask,
            "lasting": self.lasting.astype(np.float16),
            "heights": self.heights,
            "clear": self.clear,
            "paths": np.concatenate([*self.paths, np.zeros((0, 2), np.float32)]),
            "path_lengths": np.array(lengths, dtype=np.int64),
            "places": self.places,
            "local": self.local,
        }


class Scene:
    """A field of a kind; ``streamer.simulation.true_sums.recorded(scene, camera)`` makes it a movie as it is read."""

    def __init__(
        self, kind: str, scope: Microscope, specimen: Specimen | None, seed: int, motion: str | None = None
    ) -> None:
        """Draw a field.

        Parameters
        ----------
        kind : one of ``kinds.KINDS``, or several joined by +.
        specimen : what the field shows, as ``specimen_for`` says; None: no particles.
        motion : one of ``motions.MOTIONS``; None: the kind's own.

        Raises
        ------
        UsageError
            There is no such kind.
        """
        self.kind, self.recipe = kind, recipe_of(kind)
        name = motion or self.recipe.motion or "drift"
        moves = motion_of(name)
        scope = replace(scope, **dict[str, Any](self.recipe.scope))
        self.scope = moves.exposure(scope)
        self.specimen = specimen
        self._seed = seed
        # an edge that runs out of the periodic grid on one side would come in again on the other, with its fringes
        self._blend = 64.0 if self.recipe.dirty or name == "crack" else 0.0
        self.movement: Movement = moves.movement(self.scope, np.random.default_rng([seed, 81]))
        self.canvas = Canvas(scope.shape, scope.pixel_size, self.movement.reach + _MARGIN + self._blend / 2.0)
        self.optics = _optics(self.scope, np.random.default_rng([seed, 82]))
        self._dirt = dirts.drawn(self.recipe, self.canvas, self.movement, scope.voltage_kv, seed)
        blocked = self._dirt.anywhere("carbon", "gold", "vacuum")
        self.crowd = crowds.crowd(self.recipe, specimen, self.scope, self.canvas, ~blocked, seed)
        self._fading, self._lasting = self._parts()

    @property
    def displacement(self) -> Array:
        """(t, 2) drift of the field's mean, px."""
        return self.movement.drift

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Contrast (2H, 2W) of what the beam damages, and of what it does not."""
        canvas, scope = self.canvas, self.scope
        fading = crowds.contrast(self.crowd, scope, canvas, self.optics)
        if self.recipe.boiling == 0.0:
            fading += ice.grain(scope, canvas, self.optics, self._seed)
        background = torch.ones(canvas.fine)
        if self._dirt.strong:
            drawn = (self._dirt.transmission, self._dirt.phase)
            transmission, phase = (torch.from_numpy(canvas.closed(part, round(self._blend))) for part in drawn)
            background = strong_image(transmission, phase, canvas.step, scope, self.optics)
            fading *= transmission * torch.from_numpy(self._dirt.ice)
        uneven = ice.thickness(self.recipe, canvas, self._seed)
        if uneven is not None:
            background = background * torch.from_numpy(uneven)
            fading *= torch.from_numpy(uneven)
        return fading, background - 1.0

    def expected(self, detector: Detector) -> Iterator[Tensor]:
        """Mean counts of each frame before pixel efficiencies, (h, w) float32."""
        scope, fine = self.scope, self.canvas.fine
        radius = fourier.radius(fine)
        rows, columns = fourier.fftfreq_axes(fine)
        # mean over the two fine pixels of a detector pixel along each axis, then the detector's blur
        fixed = (1.0 + torch.exp(2j * math.pi * rows)) / 2.0 * ((1.0 + torch.exp(2j * math.pi * columns)) / 2.0)
        fixed = fixed * detector.transfer(2.0 * radius) * warp.prefilter(fine)
        fading, lasting = (torch.fft.rfft2(part) * fixed for part in (self._fading, self._lasting))
        rate = electrons_per_pixel(scope.dose_per_frame, scope.pixel_size)
        decay = dose.decay_rate(radius, scope.pixel_size / 2.0, scope.voltage_kv) * float(scope.damage)
        damage, per_frame = (torch.exp(-decay * (scope.dose_per_frame * part)) for part in (0.5, 1.0))
        boiling = self._boiling(detector)
        for number in range(scope.n_frames):
            frame = fourier.to_image(fading * damage + lasting, fine)
            damage *= per_frame
            contrast = self._moved(frame, number)
            if boiling is not None:
                contrast += next(boiling)
            yield (rate * (1.0 + contrast)).clamp_(min=0.0)

    def _moved(self, coefficients: Tensor, number: int) -> Tensor:
        """What the camera's pixels see of a spline on the fine grid, (h, w)."""
        (top, left), (height, width) = self.canvas.origin, self.scope.shape
        # what is a polynomial of third order over the field is a straight line over eight pixels, to 1e-3 px
        every = 1 if self.movement.crack is not None else _EVERY
        axes = (np.linspace(0, size - 1, -(-size // every), dtype=np.float32) for size in (height, width))
        grid = np.stack(np.meshgrid(*axes, indexing="ij"))
        found = torch.from_numpy(np.moveaxis(self.movement.origins(number, np.moveaxis(grid, 0, -1)), -1, 0).copy())
        if every > 1:
            found = torch.nn.functional.interpolate(found[None], (height, width), mode="bilinear", align_corners=True)[
                0
            ]
        return warp.sampled(coefficients, 2.0 * (found[0] + top), 2.0 * (found[1] + left))

    def _boiling(self, detector: Detector) -> Iterator[Tensor] | None:
        """Contrast (h, w) of ice that boils, frame by frame; it drifts and loses detail like everything else."""
        if self.recipe.boiling == 0.0 or self.scope.ice_contrast == 0.0:
            return None
        return self._boiled(detector)

    def _boiled(self, detector: Detector) -> Iterator[Tensor]:
        scope, shape, (top, left) = self.scope, self.canvas.padded, self.canvas.origin
        rows, columns = fourier.fftfreq_axes(shape)
        fixed = torch.sinc(rows) * torch.sinc(columns) * detector.transfer(fourier.radius(shape))
        there = self._dirt.transmission * self._dirt.ice
        share = torch.from_numpy(there.reshape(shape[0], 2, shape[1], 2).mean((1, 3)))
        states = ice.boiling(scope, self.canvas, self.optics, self.recipe.boiling, self._seed)
        for spectrum, (dy, dx) in zip(states, self.displacement, strict=True):
            ramp = torch.exp(-2j * math.pi * (rows * float(dy) + columns * float(dx)))
            image = fourier.to_image(spectrum * fixed * ramp, shape)
            seen = torch.roll(share, (round(float(dy)), round(float(dx))), (0, 1)) * image
            yield seen[top : top + scope.shape[0], left : left + scope.shape[1]]

    def frames(self, detector: Detector) -> Iterator[NDArray[np.uint8]]:
        """The counts, frame by frame, (h, w) uint8; the same each time."""
        efficiency, hot = torch.from_numpy(detector.efficiency), torch.from_numpy(detector.hot_counts)
        generator = torch.Generator().manual_seed(int(np.random.default_rng([self._seed, 83]).integers(2**62)))
        for expected in self.expected(detector):
            counts = torch.poisson(expected * efficiency + hot, generator=generator)
            yield counts.clamp_(max=255.0).to(torch.uint8).numpy()

    def noise_free(self, detector: Detector) -> Tensor:
        """Spectrum (h, w//2+1) of the micrograph that perfect alignment, all frames and no noise would give.

        In the position of the first frame, through damage, exposure weights of unit noise and the detector.
        """
        scope, shape = self.scope, self.scope.shape
        radius = fourier.radius(shape)
        rate = dose.decay_rate(radius, scope.pixel_size, scope.voltage_kv).double()
        late, damaged = scope.dose_per_frame / 2.0, float(scope.damage)
        squares, fading, lasting = (torch.zeros(radius.shape, dtype=torch.float64) for _ in range(3))
        for number in range(scope.n_frames):
            exposure = scope.dose_per_frame * (number + 1.0)
            weight = torch.exp(-rate * exposure)
            squares += weight**2
            lasting += weight
            fading += weight * torch.exp(-rate * damaged * (exposure - late))
        both = (self._seen(self._fading) * fading + self._seen(self._lasting) * lasting) / squares.sqrt()
        return (both * detector.transfer(radius)).to(torch.complex64)

    def _seen(self, part: Tensor) -> Tensor:
        """Spectrum (h, w//2+1) of what the first frame's pixels see of a fine image."""
        height, width = self.scope.shape
        image = torch.from_numpy(np.ascontiguousarray(self.canvas.in_frame(part.numpy())))
        spectrum: Tensor = torch.fft.rfft2(image.reshape(height, 2, width, 2).mean((1, 3)))
        return spectrum

    def truth(self) -> SceneTruth:
        """What the frames were made from."""
        canvas, frames = self.canvas, range(self.scope.n_frames)
        origin, size = np.array(canvas.origin, np.float32), np.array(self.scope.shape)
        centres = self.crowd.centres - origin
        inside = ((centres >= 0) & (centres < size)).all(1)
        masks = {kind: canvas.mask(where) for kind, where in self._dirt.masks.items()}
        masked = np.zeros(self.scope.shape, bool)
        for where in masks.values():
            masked |= where
        particles = centres[inside]
        row, column = np.rint(particles).astype(int).clip(0, size - 1).T
        places = np.stack(np.meshgrid(*(np.linspace(0, n - 1, _PLACES) for n in size), indexing="ij"), -1)
        image = canvas.in_frame((self._fading + self._lasting).numpy())
        return SceneTruth(
            image=np.ascontiguousarray(image),
            displacement=self.displacement,
            bend=np.zeros((2, 5), np.float32),
            bend_amplitude=np.zeros(len(frames), np.float32),
            particles=particles,
            rotations=self.crowd.rotations[inside],
            diameter=self.specimen.diameter if self.specimen is not None else 0.0,
            optics=self.optics,
            kind=self.kind,
            lasting=np.ascontiguousarray(canvas.in_frame(self._lasting.numpy())),
            masks=masks,
            heights=self.crowd.heights[inside],
            clear=~masked[row, column],
            paths=tuple(path - origin for path in self.crowd.paths),
            places=places.astype(np.float32),
            local=np.stack([self.movement.local(t, places) for t in frames]),
        )


def scene(
    kind: str,
    seed: int,
    shape: tuple[int, int] = (512, 512),
    *,
    specimen: Specimen | None = None,
    motion: str | None = None,
    number: int = 0,
    **settings: Any,
) -> Scene:
    """A field of a kind; the one entrance for benchmarks and tests.

    Parameters
    ----------
    kind : a name or several joined by +; of a mixture, such as ``session``, the kind that movie ``number`` has.
    specimen : of kinds that have no structure of their own. None: a random protein of this seed.
    number : of the movie in the session of this seed; all movies of a session show the same specimen.
    settings : of ``Microscope``.
    """
    scope = replace(Microscope(shape=shape, n_frames=24, dose_per_frame=1.5), **settings)
    kind = kind_of(kind, number, seed)
    shown = specimen_for(kind, specimen or random_protein(seed), seed)
    return Scene(kind, scope, shown, seed * 100_003 + number, motion)


def specimen_for(kind: str, specimen: Specimen | None, seed: int) -> Specimen | None:
    """What a field of a kind shows in a session of this seed: the kind's own structure, or else the session's."""
    own = recipe_of(kind).specimen
    return STRUCTURES[own](seed) if own is not None else specimen


def _optics(scope: Microscope, rng: np.random.Generator) -> Optics:
    low, high = scope.defocus_um
    mean, half = rng.uniform(low, high), rng.uniform(0.0, scope.astigmatism_um)
    return Optics(
        defocus_u_um=float(mean + half),
        defocus_v_um=float(mean - half),
        astigmatism_angle_deg=float(rng.uniform(0.0, 180.0)),
        voltage_kv=scope.voltage_kv,
        cs_mm=scope.cs_mm,
        amplitude_contrast=scope.amplitude_contrast,
        phase_shift_deg=scope.phase_shift_deg,
    )
