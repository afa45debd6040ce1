"""The command line. One command per job; every error says what, where, expected, found and what to do.

Exit status: 0 done, 1 some movies failed, 64 usage, 74 input or output, 75 already running, 78 configuration.
Heavy imports are inside the commands: ``streamer subscribe`` needs no torch and starts at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from service.cli.check_config import check_config
from service.cli.ctf import ctf
from service.cli.denoising import denoise, probe_model, train_model
from service.cli.files import motion, process, quality
from service.cli.gain import gain as make_gain
from service.cli.journal import journal
from service.cli.models import models
from service.cli.movies import movies
from service.cli.options import SEED, Number, OutputDirectory, configured, load_config
from service.cli.super_resolution import super_resolve, train_super_resolution
from service.printable import printable
from service.subscribers.connection import connection
from service.wire.messages import KINDS
from streamer import jsontext
from streamer.errors import StreamerError, UsageError

_INTERRUPTED = 130
_LEAST_LOST_S = 5.0
"""With ``--idle``, a daemon that is silent for this long, or for the idle time if longer, is an error."""

_CURSOR = click.option("--cursor", type=click.Path(path_type=Path), help="File that stores the position between runs.")
_SIDE = click.IntRange(32, 32_768)
_DEFOCUS = Number(-20, 20)
_IDLE = click.option("--idle", type=Number(0), help="Exit after this many seconds without an event.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cryoem-streamer")
def cli() -> None:
    """Live processing beside an electron microscope: movies in, micrographs and trustworthy numbers out."""


@cli.command()
@configured
@click.option("--instance", help="Instance name; overrides instance.name.")
def run(config: Path | None, overrides: tuple[str, ...], instance: str | None) -> int:
    """Run the daemon: watch, process and publish until stopped."""
    from service.daemon.loop import run as run_daemon

    extra = (f"instance.name={instance}",) if instance else ()
    return run_daemon(load_config(config, (*overrides, *extra)))


@cli.command()
@configured
@click.option("--once", is_flag=True, help="Print the display once and exit.")
def monitor(config: Path | None, overrides: tuple[str, ...], *, once: bool) -> None:
    """Show the live display of a running daemon."""
    from service.subscribers.monitor import watch

    with connection(load_config(config, overrides)) as client:
        watch(client, once=once)


@cli.command()
@configured
@_CURSOR
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Print only this kind of event. May be repeated."
)
@_IDLE
def subscribe(
    config: Path | None,
    overrides: tuple[str, ...],
    cursor: Path | None,
    kinds: tuple[str, ...],
    idle: float | None,
) -> None:
    """Print each event as a JSON line, in order and without gaps.

    Starts at the cursor; without one, at the oldest event still kept. After a kill the last line may be repeated,
    with the same event_id.
    """
    from service.client import FileCursor

    place = FileCursor(cursor) if cursor else None
    with connection(load_config(config, overrides), kinds=kinds or None) as client:
        for event in client.events(place, idle_timeout=idle, lost_timeout=_lost_after(idle)):
            sys.stdout.write(event.raw.decode() + "\n")
            sys.stdout.flush()


@cli.command()
@configured
@click.option("--diameter", type=Number(1, 100_000), required=True, help="Particle diameter, Å.")
@click.option(
    "--threshold", type=Number(0, 1000), default=1.0, show_default=True, help="Picking threshold; higher is stricter."
)
@_CURSOR
@_IDLE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per micrograph.")
def pick(
    config: Path | None,
    overrides: tuple[str, ...],
    diameter: float,
    threshold: float,
    cursor: Path | None,
    idle: float | None,
    *,
    as_json: bool,
) -> int:
    """Pick particles in each micrograph as it finishes.

    Follows a running daemon and writes RELION particle coordinates. Crystals, carbon, gold and holes are left out. Each
    particle's figure of merit is its height over the level that separates particles from chance: cut there.
    """
    from service.client import FileCursor, MemoryCursor
    from service.layout import layout_of
    from service.subscribers.picker import Picked, follow

    settings, failed = load_config(config, overrides), False
    place = FileCursor(cursor) if cursor else MemoryCursor()
    with connection(settings) as client:
        output = layout_of(settings).output
        for found in follow(
            client,
            place,
            output,
            diameter=diameter,
            threshold=threshold,
            idle_timeout=idle,
            lost_timeout=_lost_after(idle),
        ):
            if not isinstance(found, Picked):
                click.echo(printable(str(found)), err=True)
                failed = True
            elif as_json:
                click.echo(jsontext.shown(found).decode())
            else:
                note = f"  ({found.note})" if found.note else ""
                click.echo(f"{found.particles:5d}  {printable(found.coordinates)}{note}")
    return int(failed)


def _lost_after(idle: float | None) -> float | None:
    """Seconds of silence after which the daemon counts as lost; None, without ``--idle``: wait for it for ever."""
    return None if idle is None else max(idle, _LEAST_LOST_S)


@cli.command()
@click.argument("directory", type=OutputDirectory())
@click.option("--movies", type=click.IntRange(min=1), default=4, show_default=True, help="Number of movies.")
@click.option(
    "--layout",
    type=click.Choice(["epu", "serialem"]),
    default="epu",
    show_default=True,
    help="Directories, file names and sidecars as written by EPU (XML) or SerialEM (.mdoc).",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["tiff", "mrc", "eer"]),
    default="tiff",
    show_default=True,
    help="LZW TIFF, MRC, or EER with 20 hardware frames per frame.",
)
@click.option(
    "--mode",
    type=click.Choice(["rename", "grow", "page"]),
    default="rename",
    show_default=True,
    help="How files appear: complete, in pieces under their final name, or frame by frame (EER: in pieces).",
)
@click.option(
    "--interval",
    type=Number(0, 86_400),
    default=0.0,
    show_default=True,
    help="Minimum time from one movie to the next, s.",
)
@click.option(
    "--write-time",
    type=Number(0, 86_400),
    default=2.0,
    show_default=True,
    help="Time to write a file in pieces or frame by frame, s.",
)
@click.option(
    "--size", type=(_SIDE, _SIDE), default=(1024, 1024), show_default=True, help="Frame height and width, px."
)
@click.option("--frames", type=click.IntRange(min=1), default=32, show_default=True, help="Frames per movie.")
@click.option("--pixel-size", type=Number(0.1, 20), default=1.5, show_default=True, help="Pixel size, Å/px.")
@click.option(
    "--dose-per-frame", type=Number(0.001, 10), default=0.65, show_default=True, help="Dose per frame, e⁻/Å²."
)
@click.option("--voltage-kv", type=Number(20, 3000), default=300.0, show_default=True, help="Acceleration voltage, kV.")
@click.option(
    "--defocus",
    type=(_DEFOCUS, _DEFOCUS),
    default=(0.8, 2.0),
    show_default=True,
    help="Minimum and maximum defocus, µm.",
)
@click.option(
    "--coverage", type=Number(0, 1), default=0.3, show_default=True, help="Fraction of the field covered by particles."
)
@click.option(
    "--specimen",
    default="apoferritin",
    show_default=True,
    help="apoferritin, random (a different protein for each seed), ice, or a PDB or mmCIF file.",
)
@click.option(
    "--scene",
    help="What fields show, such as crystal, carbon-hole or small+waves-3; session mixes them as a grid does; "
    "an unknown name lists all.  [default: clean ice]",
)
@click.option(
    "--motion", help="How fields move, such as jump or rotation; an unknown name lists all.  [default: drift]"
)
@click.option("--per-square", type=click.IntRange(min=0), default=0, help="Movies per grid square.  [default: all]")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the first movie.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="The same seed gives the same movies.")
@click.option(
    "--corrupt",
    type=click.IntRange(min=0),
    multiple=True,
    help="Number of a movie to damage, counted from 0. May be repeated.",
)
@click.option("--truth/--no-truth", default=True, show_default=True, help="Write the ground truth next to each movie.")
def simulate(directory: Path, specimen: str, seed: int, **options: object) -> None:
    """Simulate EPU or SerialEM movies with known ground truth."""
    from service.cli.simulate import plan_of
    from streamer.simulation.microscope import expose

    for exposure in expose(plan_of(directory, specimen, seed, options)):
        note = " (damaged)" if exposure.corrupt else ""
        click.echo(f"{exposure.seconds:6.1f} s  {printable(str(exposure.path))}{note}")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("config.toml"))
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(file: Path, *, force: bool) -> None:
    """Write the default configuration, with comments."""
    from service.config import default_text
    from streamer.writers.atomic import write_atomically

    if file.is_dir():
        raise UsageError(
            "is a directory",
            where=file,
            expected=f"a file name, such as {file / 'config.toml'}",
            hint="name the file in it",
        )
    if file.exists() and not force:
        raise UsageError("the file already exists", where=file, hint="choose another name, or use --force")
    write_atomically(file, default_text().encode())
    name = printable(str(file))
    click.echo(f"{name}: set watch.root and outputs.root, then: streamer run --config {name}")


@cli.command()
@click.option(
    "--directory",
    type=OutputDirectory(),
    default=Path("demo-output"),
    show_default=True,
    help="Must be new, empty, or from an earlier demo, which is then erased.",
)
@click.option(
    "--movies",
    type=click.IntRange(min=8),
    default=13,
    show_default=True,
    help="Number of movies; one is damaged on purpose.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="The same seed gives the same movies.")
@click.option("--minutes", type=Number(0.1, 1440), default=20.0, show_default=True, help="Time limit, minutes.")
def demo(directory: Path, movies: int, seed: int, minutes: float) -> int:
    """Run the system on simulated movies and check the results."""
    from service.demo.run import Demo

    return Demo(directory.absolute(), movies=movies, seed=seed, limit_s=60.0 * minutes).run()


for command in (train_model, probe_model, train_super_resolution):
    models.add_command(command)
for command in (
    check_config,
    process,
    motion,
    ctf,
    quality,
    super_resolve,
    denoise,
    make_gain,
    movies,
    models,
    journal,
):
    cli.add_command(command)


def _complain(message: str, context: click.Context | None = None) -> None:
    """Print one line on standard error; for a usage error, with a pointer to the command's own help."""
    program = context.command_path if context else "streamer"
    help_ = f" See {program} --help" if context else ""
    click.echo(f"{program}: {printable(message)}{help_}", err=True)


def main() -> None:
    """Entry point: run a command and turn errors into a message and an exit status."""
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        status = _INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 64
    except click.ClickException as error:
        status = 64 if isinstance(error, click.UsageError) else 74
        _complain(" ".join(error.format_message().split()), getattr(error, "ctx", None))
    except StreamerError as error:
        status = error.exit_code
        _complain(str(error))
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        status = 0
    except OSError as error:
        status = 74
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
