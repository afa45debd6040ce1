"""Movies of sparse particles on the fine grid, and what a network learns from them."""

import torch

from models.gain_residual import Lesson
from streamer import fine, fourier
from streamer.lessons import lesson_of
from streamer.records import Motion
from streamer.super_resolve import Resolver

FRAMES = 16
NOISE = 0.25
"""Variance of a coarse frame per px."""


def motion_of(shifts):
    return Motion(shifts=shifts, information=1.0, trusted=True, iterations=0)


def sparse(seed, *, size=256, strength=0.5, frames=FRAMES):
    """Coarse frames (t, size/2, size/2), their motion and the fine truth: fine detail in a few round particles."""
    generator = torch.Generator().manual_seed(seed)
    around, big = 32, size + 64
    power = strength * torch.exp(-10.5 * (fourier.radius((big, big)) - 0.28)) / frames
    field = fourier.to_image(torch.fft.rfft2(torch.randn(big, big, generator=generator)) * power.sqrt(), (big, big))
    y, x = torch.meshgrid(torch.arange(big), torch.arange(big), indexing="ij")
    mask = torch.zeros(big, big)
    for place in torch.rand((6, 2), generator=generator) * big:
        mask = torch.maximum(mask, torch.sigmoid((20.0 - torch.hypot(y - place[0], x - place[1])) / 2.0))
    truth = field * mask / mask.square().mean().sqrt()
    steps = 0.7 * torch.randn(frames, 2, generator=generator, dtype=torch.float64)
    displacement = torch.cumsum(steps, 0) - steps[0]
    inner, half, taken = slice(around, -around), size // 2, []
    spectrum = torch.fft.rfft2(truth)
    for moved in displacement:
        image = fourier.to_image(spectrum * fourier.shift_ramp((big, big), moved), (big, big))[inner, inner]
        noise = NOISE**0.5 * torch.randn(half, half, generator=generator)
        taken.append(image.reshape(half, 2, half, 2).mean((1, 3)) + noise)
    return torch.stack(taken), motion_of(-displacement / 2.0), truth[inner, inner]


def sums_of(frames, motion, n_groups=8):
    """Fine sums of unweighted frames at 3 Å/px."""
    return fine.accumulate(
        lambda i: frames[i], motion, torch.zeros(len(frames)), pixel_size=3.0, voltage_kv=300.0, n_groups=n_groups
    )


def lesson(seed, **options):
    """A lesson, its movie's sums and the truth."""
    frames, motion, truth = sparse(seed, **options)
    sums = sums_of(frames, motion)
    return Lesson(f"movie-{seed}", lesson_of(Resolver(sums, NOISE), 3.0)), sums, truth


def noise_lesson(seed):
    """A lesson of a movie that holds nothing."""
    frames, motion, _ = sparse(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    sums = sums_of(NOISE**0.5 * torch.randn(frames.shape, generator=generator), motion)
    return Lesson(f"noise-{seed}", lesson_of(Resolver(sums, NOISE), 3.0))


def resolved(sums, network=None):
    return Resolver(sums, NOISE, network)
