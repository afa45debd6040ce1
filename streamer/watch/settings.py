"""Settings of the watched directory: where movies appear, and when one counts as complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from streamer.errors import ConfigError
from streamer.settings import Table


class WatchSettings(Table, frozen=True):
    """Where movies appear, and when one counts as complete."""

    root: Annotated[
        str | None,
        Meta(description="directory below which the detector writes; a daemon needs it; it need not exist yet"),
    ] = None
    include: Annotated[tuple[str, ...], Meta(description="file names that are movies; case does not matter")] = (
        "*.mrc",
        "*.mrcs",
        "*.tif",
        "*.tiff",
        "*.eer",
    )
    exclude: Annotated[
        tuple[str, ...],
        Meta(description="names that never are, such as files still being copied; what is left out so is counted"),
    ] = (".*", "*.tmp", "*.part", "*downloading")
    follow_links_to: Annotated[
        tuple[str, ...],
        Meta(description='directories outside the root to which links below it may lead, such as "/data/raw"'),
    ] = ()
    metadata_root: Annotated[
        str | None,
        Meta(description="where EPU writes its XML files, if not next to the movies: the session's directory"),
    ] = None
    polling: Annotated[
        Literal["auto", "always", "never"],
        Meta(description='"always" on network mounts, where no events arrive; "auto" decides by the file system'),
    ] = "auto"
    scan_interval_s: Annotated[float, Meta(gt=0, description="interval of full scans, in addition to events, s")] = 30.0
    settle_s: Annotated[
        float,
        Meta(ge=0, description="size, times and inode must not change for this long by the daemon's own clock, s"),
    ] = 5.0
    settle_with_sidecar_s: Annotated[
        float, Meta(ge=0, description="the same where a sidecar proves the number of frames, s")
    ] = 2.0
    sidecar_wait_s: Annotated[float, Meta(ge=0, description="how long a movie waits for its sidecar, s")] = 10.0
    unproven_wait_s: Annotated[
        float, Meta(ge=0, description="how long a movie waits if nothing proves its frame count; it is flagged, s")
    ] = 60.0
    backlog: Annotated[
        Literal["oldest", "latest", "alternate"],
        Meta(description="which waiting movie is next; alternate: the oldest and the latest in turn"),
    ] = "oldest"
    duplicates: Annotated[
        Literal["process", "skip"],
        Meta(description="a movie with the same size and first and last MiB as one already done under another path"),
    ] = "process"
    incomplete_after_s: Annotated[
        float, Meta(gt=0, description="a file unchanged for this long and still incomplete is reported, s")
    ] = 1800.0

    @property
    def places(self) -> tuple[str, ...]:
        """Absolute paths of ``follow_links_to``."""
        return tuple(os.path.abspath(place) for place in self.follow_links_to)  # noqa: PTH100 - links stay as they are

    def directory(self) -> Path:
        """The root, absolute, its links as they are; raises ConfigError where none is set."""
        if self.root is None:
            raise ConfigError(
                "watch.root is not set",
                expected="the directory that movies are written to",
                hint="set watch.root to the directory below which the microscope's movies appear",
            )
        return Path(os.path.abspath(self.root))  # noqa: PTH100 - links in the root stay as they are
