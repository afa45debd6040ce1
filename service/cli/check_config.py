"""``streamer check-config``: what ``streamer run`` will need is tried, one line for each check."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import click

from service.cli.options import configured, load_config
from service.health.start_checks import (
    Finding,
    check_file,
    check_links,
    check_metadata_root,
    check_root,
    check_sockets,
    check_space,
    check_writable,
    named_files,
)
from service.layout import layout_of
from service.named_versions import check_versions
from service.printable import printable
from service.setting_values import doubts
from streamer import jsontext
from streamer.errors import ConfigError, MovieMismatch, StreamerError
from streamer.settings import NO_GAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.config import Config
    from service.layout import Layout
    from streamer.records import MovieHeader

_MOVIES_TRIED = 5
"""Number of movies of the watched root, the newest first, of which one has to have a header that can be read."""
_ANY_SHAPE = (64, 64)


@click.command("check-config")
@configured
@click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
def check_config(config: Path | None, overrides: tuple[str, ...], *, as_json: bool) -> int:
    """Check a configuration: try everything that run will need.

    Named files are read, output and state directories are written to, ports are bound; what is made for that is
    removed again. Exit status 78 means that run would be refused or could do nothing.
    """
    settings = load_config(config, overrides)
    findings = list(_findings(settings, layout_of(settings)))
    if as_json:
        click.echo(jsontext.encode(findings).decode())
    for finding in () if as_json else findings:
        mark = "" if finding.verdict == "ok" else f"{finding.verdict}: "
        click.echo(printable(f"{finding.check:>16}  {mark}{finding.words}"), err=finding.verdict == "problem")
    return ConfigError.exit_code if any(finding.verdict == "problem" for finding in findings) else 0


def _findings(config: Config, layout: Layout) -> Iterator[Finding]:
    """Every check, in the order of the settings."""
    yield from (Finding(check="settings", verdict="warning", found=doubt, cure=_UNLESS) for doubt in doubts(config))
    yield check_root(config, layout)
    metadata = check_metadata_root(config)
    if metadata is not None:
        yield metadata
    yield from check_links(config)
    yield check_writable("output", "outputs.root", layout.output)
    yield check_writable("state", "instance.state", layout.state)
    yield from check_space(config, layout)
    yield from _files(config, layout)
    yield _attempt("versions", lambda: check_versions(config), "those that are named can be used")
    yield _device(config)
    yield from _machine(config)
    yield from check_sockets(config, layout)


_UNLESS = "correct it unless it is meant so"


def _files(config: Config, layout: Layout) -> Iterator[Finding]:
    """The files that the settings name, read as the worker reads them, and compared with a movie if there is one."""
    header = _header_of_a_movie(config, layout)
    for setting, path in named_files(config).items():
        finding = check_file(setting, path)
        if finding.verdict == "ok":
            finding = _attempt(setting, partial(_read, setting, path, config, header), str(path))
        yield finding
    if config.movie.gain is None:
        yield _gains_found(layout, config.watch.places)
    elif config.movie.gain == NO_GAIN:
        yield Finding(check="movie.gain", verdict="ok", found="none: the movies are said to be corrected")


def _attempt(check: str, what: Callable[[], object], good: str) -> Finding:
    """Finding of something that raises where it does not hold."""
    try:
        what()
    except StreamerError as error:
        found = error.message().removesuffix(f"; {error.hint}" if error.hint else "")
        return Finding(check=check, verdict="problem", found=found, cure=error.hint or f"correct {check}")
    return Finding(check=check, verdict="ok", found=good)


def _read(setting: str, path: Path, config: Config, header: MovieHeader | None) -> None:
    """Read a named file; raises StreamerError where it cannot be used."""
    match setting:
        case "movie.gain":
            from streamer.detector.orientation import fitted
            from streamer.readers.gain import read_gain

            gain = read_gain(path)
            if header is not None:
                fitted(gain, header, config.gain, "a movie below the watched root")
        case "gain.defects":
            from streamer.detector.defect_files import read_defects

            try:
                read_defects(path, _ANY_SHAPE if header is None else (header.height, header.width))
            except MovieMismatch:
                if header is not None:  # without a movie nobody knows how large a map has to be
                    raise
        case "eer.integration":
            from streamer.readers.eer_fractions import read_integration

            read_integration(path)
        case _:
            from streamer.detector.mtf import read_blur

            read_blur(path)


def _header_of_a_movie(config: Config, layout: Layout) -> MovieHeader | None:
    """Header of one of the newest movies below the watched root; None where there is none yet that can be read."""
    from streamer.readers.movie import read_header
    from streamer.watch.scan import scan

    if config.watch.root is None:
        return None
    files = scan(layout.root, config.watch).files
    for relative in sorted(files, key=lambda name: files[name].mtime_ns, reverse=True)[:_MOVIES_TRIED]:
        try:
            return read_header(layout.root / relative, eer=config.eer)
        except StreamerError:
            continue  # not whole yet, or no movie: the watcher will say so
    return None


def _gains_found(layout: Layout, places: tuple[str, ...]) -> Finding:
    """Where movies would find their gain references, as none is set."""
    from streamer.readers.gain import gain_candidates

    gains = gain_candidates(layout.root, places)
    found = ", ".join(map(str, gains))
    in_each = Counter(path.parent for path in gains)
    if crowded := [str(path) for path in gains if in_each[path.parent] > 1]:
        cure, found = "leave one in each directory, or set movie.gain", ", ".join(crowded)
        return Finding(check="gain", verdict="warning", found=f"several in one directory: {found}", cure=cure)
    return Finding(check="gain", verdict="ok", found=found or "none found yet")


def _device(config: Config) -> Finding:
    """Whether the device can be used."""
    from streamer.runtime.device import device_of

    name = config.compute.device
    finding = _attempt("device", lambda: device_of(name), name)
    if finding.verdict == "ok" and name == "auto":
        found = "the GPU" if device_of(name).type == "cuda" else "the CPU: there is no GPU"
        return Finding(check="device", verdict="ok", found=f"auto: {found}")
    return finding


def _machine(config: Config) -> Iterator[Finding]:
    """Settings that ask for more than this machine has."""
    from streamer.runtime.memory import worker_memory_bytes

    cores = os.cpu_count() or 1
    if config.compute.threads > cores:
        found = f"compute.threads = {config.compute.threads}, and this machine has {cores} cores"
        yield Finding(check="threads", verdict="warning", found=found, cure="0 is half of them")
    whole = worker_memory_bytes(0.0) * 4 / 3 / 2**30
    asked = config.instance.worker_memory_gib
    if asked > whole or 0.0 < asked < 1.0:
        found = f"instance.worker_memory_gib = {asked:g}, and this machine has {whole:.0f} GiB"
        yield Finding(check="memory", verdict="warning", found=found, cure="0 is three quarters of it")
