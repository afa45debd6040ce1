"""The command that makes a gain reference where none was recorded."""

from __future__ import annotations

from pathlib import Path

import click

from service.cli.options import configured, load_config
from service.printable import printable
from streamer import jsontext


@click.command()
@click.argument("paths", metavar="MOVIE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="MRC file to write; a .json beside it says more."
)
@configured
@click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
def gain(
    paths: tuple[Path, ...], output: Path, config: Path | None, overrides: tuple[str, ...], *, as_json: bool
) -> int:
    """Make a gain reference from movies, for a camera without one.

    The movies must be of one camera and mode, of different places on the specimen, and as the camera wrote them. What
    the file is worth is printed: how much of the pattern is expected to stay, and how many movies would be enough. Exit
    status 1 means that some movies could not be used.
    """
    from service.offline.make_gain import make_gain

    found = make_gain(list(paths), load_config(config, overrides), output.absolute())
    for one in found.left_out:
        click.echo(printable(f"left out: {one.path}: {one.reason}"), err=True)
    if as_json:
        click.echo(jsontext.encode(found).decode())
        return int(bool(found.left_out))
    written = found.written
    if written is None:
        click.echo(f"{found.movies} movies show no pattern beyond doubt: nothing to correct, no file is written")
        return int(bool(found.left_out))
    how = "multiplies frames" if written.sense == "multiply" else "divides frames"
    click.echo(f"{printable(str(output))}  {how}, made from {written.movies} movies")
    click.echo(
        f"pattern {written.spread:.2%} from pixel to pixel, of which {written.left:.2%} is expected to stay; "
        f"certainty {written.certainty:.2f}"
    )
    more = written.movies_needed - written.movies
    if written.movies_needed == 0:
        click.echo("a pattern this weak changes no figure noticeably")
    elif more > 0:
        click.echo(f"{more} more movies like these would leave nothing that changes a figure noticeably")
    else:
        click.echo("what stays changes no figure noticeably")
    return int(bool(found.left_out))
