"""How a session model is trained. No torch: the main process reads this too."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from streamer.settings import Table

SHIPPED, NO_BASE = "shipped", "none"
_PIXEL_TOLERANCE = 0.05


class SessionModelSettings(Table, frozen=True):
    """How the session model is trained. Budgets are steps, so that a slow machine changes the time, not the result."""

    enabled: Annotated[bool, Meta(description="train on this session; false: only an existing model is used")] = True
    base: Annotated[
        str,
        Meta(
            description="weights that a session starts from and uses from its first movie on: shipped, those that come "
            "with the program (network small); none, from scratch; or the directory of a version"
        ),
    ] = SHIPPED
    network: Annotated[
        Literal["small", "large", "restore", "restore-skip"],
        Meta(
            description="small: learns in seconds on one core; large: eight times as many weights, for a GPU; restore: "
            "that of Palovcak et al. 2020, 2.4 million weights, which has to learn the Wiener filter too; "
            "restore-skip: the same with a skip at full resolution (docs/denoising.md). If base is a directory, its "
            "network is used; shipped weights exist for small only, the others start from scratch"
        ),
    ] = "small"
    first_movies: Annotated[int, Meta(ge=1, description="movies to learn from before the first training")] = 1
    first_steps: Annotated[int, Meta(ge=1, description="steps of the first training")] = 250
    refresh_movies: Annotated[int, Meta(ge=1, description="new movies to learn from before the next training")] = 2
    refresh_steps: Annotated[int, Meta(ge=1, description="steps per new movie")] = 120
    seconds_per_movie: Annotated[
        float,
        Meta(gt=0, description="training ends after this many seconds per new movie, even if steps are left"),
    ] = 30.0
    most_movies: Annotated[
        int,
        Meta(
            ge=2,
            description="movies kept in the trainer's memory to learn from: half the newest, half a sample of the rest",
        ),
    ] = 24
    most_held_out: Annotated[
        int, Meta(ge=2, description="number of held-out movies, the newest, that the gate uses")
    ] = 32
    memory_gb: Annotated[
        float,
        Meta(
            gt=0, description="memory for movies to learn from and to judge by, GB; only a part of larger ones is kept"
        ),
    ] = 2.0
    gpu_memory_share: Annotated[
        float, Meta(gt=0, le=1, description="largest share of the GPU's memory that the trainer may use")
    ] = 0.5
    groups_limit_gb: Annotated[
        float,
        Meta(
            gt=0,
            description="disk space for frame-group sums, GB; the oldest are removed first, the newest held-out ones "
            "last; super_resolution.network may use as much again",
        ),
    ] = 20.0
    pause_pending: Annotated[int, Meta(ge=1, description="training waits while more movies than this are waiting")] = 2
    threads: Annotated[int, Meta(ge=1, description="CPU threads of the trainer")] = 1


def is_held_out(index: int) -> bool:
    """Whether the index-th movie of a specimen (from 0) is held out: 1, 2, 7, 11, …, in the long run a quarter.

    The gate needs two for a first promotion, and a network learns nearly as much from one movie as from two.
    """
    return index in (1, 2) or (index % 4 == 3 and index > 3)


def is_same_pixel_size(one: float, other: float) -> bool:
    """Whether two pixel sizes, Å, are close enough for one model."""
    return abs(one / other - 1.0) <= _PIXEL_TOLERANCE
