"""Motion that varies over the field: smooth functions of time and place, and the shift at any point.

Time. The specimen moves fast at first and slowly later: cubic B-splines with knots evenly spaced in log(1 + t/3), t in
frames. A constant is left out everywhere, because no pair of frames can see it.

Place. Products of Legendre polynomials up to a total order of 3 over the field: a sheet of ice that bends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from streamer.motion.track import LocalMotion, Motion

ORDERS = tuple((i, order - i) for order in range(4) for i in range(order + 1))
"""Orders (along y, along x) of the products, the constant first."""
_PLACES = 12
"""Points along each axis at which a field is compared with RELION's model of it."""


def log_time(times: Tensor, last: float) -> Tensor:
    """log(1 + t/3) for times in frames, scaled so that it reaches from 0 to 1 at ``last``; float64."""
    return torch.log1p(times.to(torch.float64) / 3.0) / math.log1p(last / 3.0)


def spline_values(times: Tensor, last: float, functions: int) -> Tensor:
    """Cubic B-splines in log time.

    Parameters
    ----------
    times : (n,) in frames, 0…last.
    functions : their number; below 4 the degree falls with it.

    Returns
    -------
    (n, functions) float64; they add up to 1 at each time.

    Source: de Boor's recurrence, with the end knots repeated.
    """
    degree = min(3, functions - 1)
    inner = torch.linspace(0.0, 1.0, functions - degree + 1, dtype=torch.float64)
    knots = torch.cat([inner[:1].expand(degree), inner, inner[-1:].expand(degree)])
    position = log_time(times, last).clamp(0.0, 1.0 - 1e-12)[:, None]
    values = ((position >= knots[:-1]) & (position < knots[1:])).to(torch.float64)
    for k in range(1, degree + 1):
        rising = (position - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
        falling = (knots[k + 1 :] - position) / (knots[k + 1 :] - knots[1:-k])
        # a span between equal knots is empty and counts nothing
        values = rising.nan_to_num(0.0, 0.0, 0.0) * values[:, :-1] + falling.nan_to_num(0.0, 0.0, 0.0) * values[:, 1:]
    return values


def legendre_values(points: Tensor, shape: tuple[int, int]) -> Tensor:
    """Products of Legendre polynomials of ``ORDERS`` at points of the field.

    Parameters
    ----------
    points : (n, 2) float64 (y, x) px; the field reaches from −½ to size − ½.
    shape : (h, w) px.

    Returns
    -------
    (n, len(ORDERS)) float64.
    """
    y, x = (legendre_of(points[:, axis], shape[axis]) for axis in (0, 1))
    return torch.stack([y[i] * x[j] for i, j in ORDERS], dim=1)


def legendre_of(positions: Tensor, size: int) -> Tensor:
    """Legendre polynomials of orders 0…3 along one axis of ``size`` px: (4, n) float64."""
    u = (2.0 * positions.to(torch.float64) + 1.0) / size - 1.0
    return torch.stack([torch.ones_like(u), u, 1.5 * u**2 - 0.5, 2.5 * u**3 - 1.5 * u])


def shifts_at(motion: Motion, points: Tensor) -> Tensor:
    """Shift of every frame at points of the reference.

    Parameters
    ----------
    points : (n, 2) (y, x) px.

    Returns
    -------
    (t, n, 2) float64 (y, x) px: what is at ``point − shift`` in the frame belongs at ``point``.
    """
    everywhere = motion.shifts[:, None, :].expand(-1, len(points), -1)
    if motion.local is None:
        return everywhere.clone()
    values = legendre_values(points.to(torch.float64), motion.local.shape)[:, 1:]
    return everywhere + torch.einsum("taj,nj->tna", motion.local.coefficients, values)


def bending(local: LocalMotion) -> Tensor:
    """Root mean square over the field of what is added to the global shift, (t,) float64 px."""
    norms = torch.tensor([1.0 / ((2 * i + 1) * (2 * j + 1)) for i, j in ORDERS[1:]], dtype=torch.float64)
    return (local.coefficients**2 * norms).sum((1, 2)).sqrt()


def largest_bending(motion: Motion) -> float:
    """The largest ``bending`` of any frame, px; 0 where one shift applies to the whole field."""
    return 0.0 if motion.local is None else float(bending(motion.local).max())


def relion_model(local: LocalMotion) -> tuple[list[float], float]:
    """The field as RELION's polynomial of per-movie STAR files.

    Returns
    -------
    36 coefficients, 18 of X and then 18 of Y: of (z, z², z³) for each of (1, x, x², y, y², xy), with z in frames from
    the first, x = X/width − ½ and y = Y/height − ½; and the residual, px root mean square over field and frames.

    Source: RELION 3.1, third-order polynomial model of local motion (Zivanov et al. 2019); by least squares.
    """
    height, width = local.shape
    axis = (torch.arange(_PLACES, dtype=torch.float64) + 0.5) / _PLACES
    points = torch.cartesian_prod(axis * height - 0.5, axis * width - 0.5)
    field = torch.einsum("taj,nj->tna", local.coefficients, legendre_values(points, local.shape)[:, 1:])
    y, x = points[:, 0] / height - 0.5, points[:, 1] / width - 0.5
    place = torch.stack([torch.ones_like(x), x, x**2, y, y**2, x * y])
    z = torch.arange(len(field), dtype=torch.float64)
    time = torch.stack([z, z**2, z**3])
    terms = torch.einsum("kn,mt->tnkm", place, time).reshape(-1, 18)
    # scaled, because z³ is thousands of times z
    scale = terms.square().mean(0).sqrt().clamp(min=1e-30)
    wanted = field.flip(-1).reshape(-1, 2)
    found = torch.linalg.lstsq(terms / scale, wanted, driver="gelsd").solution / scale[:, None]
    missed = float((terms @ found - wanted).square().sum(1).mean().sqrt())
    return [float(value) for value in found.T.flatten()], missed
