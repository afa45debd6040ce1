import os
import threading
from pathlib import Path

import pytest
import torch

from models.manifest import DENOISERS
from models.networks.denoiser import WienerResidualNet
from models.training.denoiser import train
from streamer.simulation.movie import Microscope
from streamer.simulation.specimen import apoferritin, random_protein
from tests.simulated_movies import simulated

torch.set_num_threads(1)


def _sockets():
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def pytest_collection_modifyitems(items):
    """Whole processes first: they wait more than they compute, and none of them is left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


@pytest.fixture(autouse=True)
def nothing_left_open(request):
    """The data path and the networks start no threads and open no sockets that outlive a call."""
    if not {"streamer", "models"} & set(Path(request.path).relative_to(Path(__file__).parent).parts):
        yield
        return
    threads, sockets = set(threading.enumerate()), _sockets()
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads and thread.is_alive()]
    assert not left, f"threads left running: {left}"
    assert _sockets() <= sockets, f"sockets left open by process {os.getpid()}"


@pytest.fixture(scope="session")
def protein_movie():
    """1 e/px/frame of a protein without symmetry: what the accuracy of the alignment is promised for."""
    return simulated(Microscope(pixel_size=1.0, dose_per_frame=1.0), random_protein(0), seed=0)


@pytest.fixture(scope="session")
def apoferritin_movie():
    return simulated(Microscope(pixel_size=1.0, dose_per_frame=1.0), apoferritin(), seed=2)


@pytest.fixture(scope="session")
def coarse_movie():
    """Pixels so large that there is signal beyond their Nyquist frequency."""
    scope = Microscope(shape=(512, 512), pixel_size=3.0, dose_per_frame=1.5, bend_px=0.3)
    return simulated(scope, random_protein(1), seed=1)


@pytest.fixture(scope="session")
def session_counts():
    """Seven movies of one specimen."""
    scope = Microscope(shape=(512, 512), n_frames=10, dose_per_frame=2.0)
    specimen = random_protein(1)
    return [simulated(scope, specimen, seed=seed) for seed in range(7)]


@pytest.fixture(scope="session")
def session_movies(session_counts):
    """The same as group sums: four to learn from, three to be judged on."""
    return [movie.training_movie(f"movie-{number}") for number, movie in enumerate(session_counts)]


@pytest.fixture(scope="session")
def trained(session_movies):
    """A net that learned from four movies for a few seconds, and the report of it."""
    torch.manual_seed(0)
    net = WienerResidualNet(DENOISERS["small"])
    return net, train(net, session_movies[:4], steps=80, seed=0)
