"""Movies whose specimen moves differently over the field, with a known truth."""

from __future__ import annotations

import torch

from streamer import fourier
from tests.simulated_movies import images


def specimen(shape, seed=0, contrast=0.08, blur=0.25):
    """Blurred noise on a grid four times as fine: relative contrast (4h, 4w)."""
    spectrum = torch.fft.rfft2(images(*shape, seed=seed)) * torch.exp(-((fourier.radius(shape) / blur) ** 2))
    image = fourier.to_image(
        fourier.resize(spectrum, shape, (4 * shape[0], 4 * shape[1])), (4 * shape[0], 4 * shape[1])
    )
    return image * (contrast / image.std())


def bent(n_frames=16, shape=(512, 512), strength=1.0, tau=7.0, mean=1.2, seed=0, contrast=0.08, drift=1.0):
    """Poisson counts (t, h, w), and the shift that puts each frame right at points (n, 2) px: (t, n, 2).

    The specimen's displacement is that of a sheet that bends: a polynomial of the second order in place.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    fine = specimen(shape, seed, contrast)
    time = torch.arange(n_frames, dtype=torch.float64)

    def displacement(points):
        u, v = points[..., 1] / shape[1] - 0.5, points[..., 0] / shape[0] - 0.5
        grown = strength * (1 - torch.exp(-time / tau))
        x = drift * (6 * (1 - torch.exp(-time / 4)) + 0.06 * time)
        y = drift * (-3.5 * (1 - torch.exp(-time / 6)) + 0.09 * time)
        extra = torch.ones(points.dim() - 1, dtype=torch.int64).tolist()
        x, y, grown = (one.reshape(-1, *extra) for one in (x, y, grown))
        return torch.stack(
            [y + grown * (3.5 * v**2 - 2.4 * u * v - 0.8 * u), x + grown * (2 * u + 4 * u * v - 1.5 * v**2)], -1
        )

    rows, columns = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in shape), indexing="ij")
    pixels = torch.stack([rows, columns], -1)
    frames = []
    for place in displacement(pixels):
        at = pixels - place
        grid = torch.stack([(2 * at[..., 1] + 1) / shape[1] - 1, (2 * at[..., 0] + 1) / shape[0] - 1], -1).float()
        moved = torch.nn.functional.grid_sample(
            fine[None, None], grid[None], mode="bicubic", padding_mode="reflection", align_corners=False
        )[0, 0]
        frames.append(torch.poisson((mean * (1 + moved)).clamp(min=0), generator=generator))
    return torch.stack(frames), lambda points: -displacement(points.to(torch.float64))
