"""Exposure filter: how much of each spatial frequency a frame still carries.

Units: exposure N in e⁻/Å², spatial frequency k in 1/Å.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SCALE_BY_VOLTAGE = {300: 1.0, 200: 0.8, 100: 0.64}


def critical_exposure(spatial_frequency: Tensor, voltage_kv: float = 300.0) -> Tensor:
    """Exposure after which the amplitude has fallen to e^−1/2, in e⁻/Å².

    Parameters
    ----------
    spatial_frequency : (…) in 1/Å; the value at 0 is infinite.
    voltage_kv : 100, 200 or 300; others are interpolated.

    Source: Grant & Grigorieff 2015, eq. 3: N_c = 0.245 k^−1.665 + 2.81 at 300 kV; × 0.8 at 200 kV and × 0.64 at
    100 kV, as in their program and in RELION.
    """
    return (0.245 * spatial_frequency.pow(-1.665) + 2.81) * voltage_scale(voltage_kv)


def voltage_scale(voltage_kv: float) -> float:
    """Factor of the critical exposure against 300 kV, linear between 100, 200 and 300 kV."""
    known = sorted(_SCALE_BY_VOLTAGE.items())
    if voltage_kv <= known[0][0]:
        return known[0][1]
    for (low, low_scale), (high, high_scale) in zip(known, known[1:], strict=False):
        if voltage_kv <= high:
            return low_scale + (high_scale - low_scale) * (voltage_kv - low) / (high - low)
    return known[-1][1]


def decay_rate(fftfreq: Tensor, pixel_size: float, voltage_kv: float) -> Tensor:
    """Z = 1/(2 N_c), so that a frame after exposure N carries exp(−N z) of the amplitude; (…) in Å²/e⁻."""
    rate = 0.5 / critical_exposure(fftfreq.clamp(min=1e-9) / pixel_size, voltage_kv)
    return torch.where(fftfreq > 0, rate, torch.zeros_like(rate))


def frame_exposures(
    n_frames: int,
    dose_per_frame: float | None,
    frame_doses: tuple[float, ...] | None = None,
    left_out: tuple[int, ...] = (),
) -> Tensor:
    """Exposure at the end of each frame, (t,) float64 in e⁻/Å²; zeros when the dose is unknown: no weighting.

    ``left_out`` are frames that are not used, though what they received counts for those after them.

    ``frame_doses`` gives the doses where they differ, as EER movies can be divided. Counted from the beginning of the
    movie: earlier exposure weakens all frames by the same factor at each frequency, which a sum divided by the root of
    Σw² does not see.
    """
    if dose_per_frame is None:
        exposures = torch.zeros(n_frames, dtype=torch.float64)
    elif frame_doses is not None:
        exposures = torch.tensor(frame_doses, dtype=torch.float64).cumsum(0)
    else:
        exposures = dose_per_frame * torch.arange(1, n_frames + 1, dtype=torch.float64)
    return exposures[[index for index in range(n_frames) if index not in left_out]] if left_out else exposures


def received(
    dose_per_frame: float | None, frame_doses: tuple[float, ...] | None, shares: tuple[float, ...]
) -> tuple[float, ...] | None:
    """Doses of frames of which some received another share of their exposure than 1.

    Returns
    -------
    e⁻/Å² of each frame; None where it is unknown, or the same in all frames.
    """
    if all(share == 1.0 for share in shares):
        return frame_doses
    if frame_doses is None and dose_per_frame is None:
        return None
    planned = frame_doses if frame_doses is not None else (dose_per_frame or 0.0,) * len(shares)
    found = tuple(dose * share for dose, share in zip(planned, shares, strict=True))
    if 2 * sum(share not in (0.0, 1.0) for share in shares) > len(shares):
        # a plan that most frames contradict is wrong as a whole: what it adds up to still holds
        return tuple(dose * sum(planned) / sum(found) for dose in found)
    return found


def sum_of_squares(exposures: Tensor, rate: Tensor) -> Tensor:
    """Σ_t exp(−2 N_t z): sum of the squared weights of frames.

    Parameters
    ----------
    exposures : (t,) e⁻/Å².
    rate : (…) z in Å²/e⁻.

    Returns
    -------
    (…) float32. Tabulated in z, because it depends on the frequency through z alone.
    """
    top = float(rate.max())
    if top == 0.0 or not bool((exposures > 0).any()):
        return torch.full_like(rate, float(exposures.numel()), dtype=torch.float32)
    grid = torch.linspace(0.0, top, 1025, dtype=torch.float64)
    table = torch.exp(-2.0 * exposures.cpu()[None, :] * grid[:, None]).sum(1)
    position = rate.to(torch.float32) * ((grid.numel() - 1) / top)
    low = position.floor().clamp_(max=grid.numel() - 2)
    values = table.to(device=rate.device, dtype=torch.float32)
    index = low.to(torch.int64)
    return torch.lerp(values[index], values[index + 1], position - low)
