"""Pick particles with topaz's pretrained network: run by the Python of an environment that holds topaz-em 0.3.20.

    python topaz_pick.py DIRECTORY RADIUS STEP     IMAGE.mrc in the directory -> picks.txt there

Images are reduced and normalised by ``topaz preprocess``, and picked by ``topaz extract`` down to a score of −4, in px
of the images as they are.
"""

import subprocess
import sys
from pathlib import Path


def main(directory: str, radius: str, step: str) -> None:
    place = Path(directory)
    topaz = str(Path(sys.executable).with_name("topaz"))
    images = sorted(str(path) for path in place.glob("*.mrc"))
    small = place / "small"
    subprocess.run([topaz, "preprocess", "-s", step, "-d", "-1", "-o", f"{small}/", *images], check=True)
    subprocess.run(
        [
            *(topaz, "extract", "-d", "-1", "-j", "1", "-r", radius, "-t", "-4", "-x", step),
            *("-o", str(place / "picks.txt"), *sorted(str(path) for path in small.glob("*.mrc"))),
        ],
        check=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
