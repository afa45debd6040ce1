"""A job for ``process_movie`` as tests want it: everything at its default but what a test names."""

import torch

from streamer.pipeline import Job
from streamer.records import Instructions
from streamer.settings import DataPathSettings
from streamer.super_resolution.step import SuperResolutionRequest


def job_of(directory, gain=None, propose=None, settings=None, *, movie_id="m", network=None, zssr=None, **instructions):
    """Job that writes below ``directory``; ``instructions`` are fields of ``Instructions``."""
    paths = {name: str(instructions[name]) for name in ("groups", "training_data") if instructions.get(name)}
    return Job(
        instructions=Instructions(session_directory=str(directory), **instructions | paths),
        settings=settings or DataPathSettings(),
        device=torch.device("cpu"),
        gain=gain,
        propose=propose,
        super_resolution=SuperResolutionRequest(movie_id=movie_id, network=network, zssr=zssr),
    )
