"""A movie and a job for ``process_movie`` as tests want them: everything at its default but what a test names."""

import torch

from streamer.pipeline import Job
from streamer.readers.movie import identity_of
from streamer.records import Instructions, Movie
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


def movie_at(path, acquisition, root=None, *, session="s"):
    """Movie that lies directly in its root, or below one; ``acquisition`` is what its sidecar says."""
    relative = path.name if root is None else path.relative_to(root).as_posix()
    return Movie(
        path=str(path),
        relative=relative,
        session=session,
        identity=identity_of(path),
        evidence="sidecar",
        acquisition=acquisition,
    )
