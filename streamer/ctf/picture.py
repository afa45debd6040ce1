"""Pictures of a spectrum with its fit: data left, fit right, and the curve along the spatial frequency."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.ctf.estimate import Estimate
    from streamer.ctf.lens import Lens
    from streamer.transfer_figures import CtfFigures

_SIDE = 512
"""Of the picture, px; even."""
_FINEST = 3.0
"""Å at the edge of the picture, or the Nyquist frequency if that is coarser."""
_RINGS = (10.0, 6.0, 4.0, 3.0)
"""Å, drawn where they fit in."""
_TILE = 512
_CURVE_WIDTH, _CURVE_HEIGHT, _MARGIN = 512, 220, 36
_CLIP = 2.0
_TEXT = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A centred power spectrum, (side, side), from −highest to highest along both axes."""

    values: NDArray[np.float64]
    highest: float
    """Å⁻¹ at the edge."""


def tiled(image: NDArray[np.float32], pixel_size: float) -> Spectrum:
    """Mean power of overlapping tiles of an image: for people, whom a periodogram shows only noise."""
    side = min(_TILE, *image.shape)
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    tops, lefts = (np.arange(0, size - side + 1, max(1, side // 2)) for size in image.shape)
    power = np.zeros((side, side))
    for top in tops:
        for left in lefts:
            tile = image[top : top + side, left : left + side].astype(np.float32)
            power += np.abs(np.fft.fft2((tile - tile.mean()) * window)) ** 2
    return _resampled(np.fft.fftshift(power), (pixel_size, pixel_size))


def centred(power: NDArray[np.float64], pixel_size: float) -> Spectrum:
    """A picture that is a power spectrum already."""
    return _resampled(power, (pixel_size, pixel_size))


def _resampled(power: NDArray[np.float64], pixel_size: tuple[float, float]) -> Spectrum:
    """The middle of a spectrum on a square grid, whatever the shape of the image."""
    highest = min(1.0 / _FINEST, 0.5 / max(pixel_size))
    k = _axis(highest)
    places = [
        np.clip(np.rint(k * size * pixel + size // 2), 0, size - 1).astype(np.int64)
        for size, pixel in zip(power.shape, pixel_size, strict=True)
    ]
    return Spectrum(power[np.ix_(*places)], highest)


def _axis(highest: float) -> NDArray[np.float64]:
    return np.asarray((np.arange(_SIDE) + 0.5 - _SIDE // 2) * (2.0 * highest / _SIDE), dtype=np.float64)


def with_fit(spectrum: Spectrum, found: Estimate, lens: Lens) -> Spectrum:
    """Data over their smooth course on the left; CTF² of the fit on the right, within the band of the fit."""
    k = _axis(spectrum.highest)
    ky, kx = k[:, None], k[None, :]
    u = ky**2 + kx**2
    flat = np.clip(spectrum.values / _course(spectrum.values, np.sqrt(u)) - 1.0, -1.0, _CLIP)
    inner = flat[np.hypot(ky, kx) > 0.25 * spectrum.highest]
    low, high = np.percentile(inner, (2.0, 98.0))
    grey = np.clip((flat - low) / max(high - low, 1e-12), 0.0, 1.0)
    if found.fit is not None and found.figures.state != "none":
        values, theta = found.fit.values, np.arctan2(ky, kx)
        z = values[0] + values[1] * np.cos(2 * theta) + values[2] * np.sin(2 * theta)
        phase = lens.per_defocus * z * u - lens.aberration * u**2 + 2.0 * (values[3] + lens.contrast_phase)
        first, last = found.cells.edges
        fitted = np.where((u >= first) & (u <= last), 0.5 * (1.0 - np.cos(phase)), 0.5)
        grey = np.where(kx > 0, fitted, grey)
    return Spectrum(grey, spectrum.highest)


def _course(power: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over rings, smoothed until no Thon ring is left of it."""
    rings = 64
    place = np.minimum((radius / radius.max() * rings).astype(np.int64), rings - 1)
    medians = np.array([np.median(power[place == ring]) for ring in range(rings)])
    padded = np.pad(np.log(np.maximum(medians, 1e-30)), 4, mode="edge")
    smooth = np.convolve(padded, np.full(9, 1.0 / 9.0), mode="valid")
    centres = (np.arange(rings) + 0.5) / rings * radius.max()
    return np.exp(np.interp(radius, centres, smooth))


def svg(png: bytes, highest: float, found: Estimate) -> str:
    """The picture with rings at round resolutions, and below it the curve with the fit; SVG."""
    middle, parts = _SIDE // 2, []
    for resolution in _RINGS:
        radius = middle / (resolution * highest)
        if radius < middle:
            parts.append(f'<circle cx="{middle}" cy="{middle}" r="{radius:.1f}" fill="none" stroke="#e66100"/>')
            parts.append(
                f'<text x="{middle + 3}" y="{middle - radius + 13:.1f}" fill="#e66100">{resolution:g} Å</text>'
            )
    embedded = base64.b64encode(png).decode()
    height = _SIDE + _CURVE_HEIGHT + 2 * _MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIDE}" height="{height}" {_TEXT}>',
        f'<rect width="{_SIDE}" height="{height}" fill="white"/>',
        f'<image width="{_SIDE}" height="{_SIDE}" href="data:image/png;base64,{embedded}"/>',
        *parts,
        f'<text x="8" y="{_SIDE + 22}">{_caption(found.figures)}</text>',
        *_curve(found),
        "</svg>",
        "",
    ])  # fmt: skip


def _caption(figures: CtfFigures) -> str:
    if figures.defocus_u_angstrom is None or figures.defocus_v_angstrom is None:
        return "no rings were found"
    u, v, angle = figures.defocus_u_angstrom, figures.defocus_v_angstrom, figures.astigmatism_angle_deg
    resolution = figures.fit_resolution_angstrom
    followed = "" if resolution is None else f", rings to {resolution:.1f} Å"
    return f"left: data; right: fit, {u:.0f} / {v:.0f} Å at {angle:.1f}°{followed} ({figures.state})"


def _curve(found: Estimate) -> list[str]:
    """Observed and fitted rings, averaged over directions at equal phase."""
    if found.evidence is None or found.figures.state == "none":
        return []
    curve, top = found.evidence.curve, _SIDE + _MARGIN
    known = curve.weight > 0
    k, observed, expected = curve.k[known], curve.observed[known], curve.expected[known]
    limit = 1.3 * max(float(np.abs(expected).max()), float(np.percentile(np.abs(observed), 98)), 1e-6)
    low, high = float(k[0]), float(k[-1])

    def line(values: NDArray[np.float64], colour: str) -> str:
        x = _MARGIN / 2 + (k - low) / (high - low) * (_CURVE_WIDTH - _MARGIN)
        y = top + _CURVE_HEIGHT * (0.5 - 0.5 * np.clip(values / limit, -1.0, 1.0))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{colour}"/>'

    marks = []
    for resolution in (20.0, *_RINGS):
        if low < 1.0 / resolution < high:
            x = _MARGIN / 2 + (1.0 / resolution - low) / (high - low) * (_CURVE_WIDTH - _MARGIN)
            marks.append(f'<path d="M{x:.1f} {top}v{_CURVE_HEIGHT}" stroke="#ddd"/>')
            marks.append(
                f'<text x="{x:.1f}" y="{top + _CURVE_HEIGHT + 16}" text-anchor="middle">{resolution:g} Å</text>'
            )
    legend = f'<text x="{_CURVE_WIDTH - 8}" y="{top + 12}" text-anchor="end">'
    legend += '<tspan fill="#5d3a9b">data</tspan> <tspan fill="#e66100">fit</tspan></text>'
    return [*marks, line(observed, "#5d3a9b"), line(expected, "#e66100"), legend]
