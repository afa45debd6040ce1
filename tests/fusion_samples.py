"""Movies of sparse particles on the fine grid, and what a network learns from them."""

import torch

from benchmarks.fusion_network import NOISE
from benchmarks.fusion_network import sparse as ideal
from models.networks.fusion_residual import FusionExample
from streamer.motion.track import Motion
from streamer.super_resolution import accumulate
from streamer.super_resolution.fusion import Fusion
from streamer.super_resolution.training_data import training_data_of


def motion_of(shifts):
    return Motion(shifts=shifts, information=1.0, trusted=True, iterations=0)


def sparse(seed, *, size=256, strength=0.5, frames=16):
    """Coarse frames (t, size/2, size/2), their motion and the fine truth: fine detail in a few round particles."""
    taken, shifts, truth = ideal(seed, size=size, frames=frames, strength=strength, particles=6, radius=20.0)
    return torch.stack(taken), motion_of(shifts), truth


def sums_of(frames, motion, n_groups=8):
    """Fine sums of unweighted frames at 3 Å/px."""
    return accumulate.accumulate(
        lambda i: frames[i], motion, torch.zeros(len(frames)), pixel_size=3.0, voltage_kv=300.0, n_groups=n_groups
    )


def example(seed, **options):
    """An example, its movie's sums and the truth."""
    frames, motion, truth = sparse(seed, **options)
    sums = sums_of(frames, motion)
    return FusionExample(f"movie-{seed}", training_data_of(Fusion(sums, NOISE), 3.0)), sums, truth


def noise_example(seed):
    """An example of a movie of noise alone."""
    frames, motion, _ = sparse(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    sums = sums_of(NOISE**0.5 * torch.randn(frames.shape, generator=generator), motion)
    return FusionExample(f"noise-{seed}", training_data_of(Fusion(sums, NOISE), 3.0))


def resolved(sums, network=None):
    return Fusion(sums, NOISE, network)
