"""How a session model is trained. No torch: the main process reads this too."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from streamer.settings import Table

SHIPPED, NO_BASE = "shipped", "none"
_PIXEL_TOLERANCE = 0.05


class SessionModelSettings(Table, frozen=True):
    """How the session model is trained. Budgets are steps, so that a slow machine changes the time, not the result."""

    enabled: Annotated[
        bool, Meta(description="train on this session; false: only a model that is there already serves")
    ] = True
    base: Annotated[
        str,
        Meta(
            description="what a session starts with and serves from its first movie: shipped, the weights that come "
            "with the program (network small); none, from scratch; or the directory of a version"
        ),
    ] = SHIPPED
    network: Annotated[
        Literal["small", "large", "restore", "restore-skip"],
        Meta(
            description="small: learns in seconds on one core; large: eight times as many weights, for a GPU; restore: "
            "that of Palovcak et al. 2020, 2.4 million weights, which has to learn the Wiener filter too; "
            "restore-skip: the same with a skip at full resolution (docs/denoising.md). Where base is a directory, "
            "that of the base; shipped weights are of the small one, the others start from scratch"
        ),
    ] = "small"
    first_movies: Annotated[int, Meta(ge=1, description="movies to learn from before the first training")] = 1
    first_steps: Annotated[int, Meta(ge=1, description="steps of the first training")] = 250
    refresh_movies: Annotated[int, Meta(ge=1, description="new movies to learn from before the next training")] = 2
    refresh_steps: Annotated[int, Meta(ge=1, description="steps per new movie")] = 120
    seconds_per_movie: Annotated[
        float,
        Meta(gt=0, description="training ends after so many seconds per new movie, whatever steps are left"),
    ] = 30.0
    most_movies: Annotated[
        int,
        Meta(
            ge=2,
            description="movies kept in the trainer's memory to learn from: the newest half, and some of all others",
        ),
    ] = 24
    most_held_out: Annotated[int, Meta(ge=2, description="newest held-out movies that the gate looks at")] = 32
    memory_gb: Annotated[
        float,
        Meta(gt=0, description="memory for movies to learn from and to judge by, GB; of larger ones a part is kept"),
    ] = 2.0
    gpu_memory_share: Annotated[
        float, Meta(gt=0, le=1, description="of the GPU's memory, what the trainer may take at most")
    ] = 0.5
    groups_limit_gb: Annotated[
        float,
        Meta(
            gt=0,
            description="disk space for frame-group sums, GB; the oldest go first, the newest held-out ones last; "
            "super_resolution.network may take as much again",
        ),
    ] = 20.0
    pause_pending: Annotated[int, Meta(ge=1, description="training waits while more movies than this are waiting")] = 2
    threads: Annotated[int, Meta(ge=1, description="CPU threads of the trainer")] = 1


def is_held_out(index: int) -> bool:
    """Whether the index-th movie of a specimen (from 0) is kept from training: 1, 2, 7, 11, … a quarter for good.

    The gate needs two before anything may serve, and a network learns nearly as much from one movie as from two.
    """
    return index in (1, 2) or (index % 4 == 3 and index > 3)


def is_same_pixel_size(one: float, other: float) -> bool:
    """Whether two pixel sizes, Å, are near enough for one model."""
    return abs(one / other - 1.0) <= _PIXEL_TOLERANCE
