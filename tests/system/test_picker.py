"""The downstream picker: a subscriber that writes coordinates where RELION's extraction looks for them."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from service.demo.checks import coordinates, matched
from streamer.simulation.specimen import apoferritin
from tests.system.conftest import SMALL

pytestmark = pytest.mark.system


def test_picks_are_particles_and_relion_extracts_them(make_site, tmp_path):
    site = make_site(outputs__dtype='"float32"')
    daemon = site.start()
    scope = replace(SMALL, shape=(640, 512), n_frames=16, dose_per_frame=1.5, defocus_um=(1.5, 2.0))
    paths = site.expose(2, scope=scope, specimen=apoferritin())
    site.wait_for(done=2)
    arguments = ("--diameter", "130", "--cursor", str(tmp_path / "cursor"), "--idle", "1", "--json")
    picked = site.run("pick", "--config", str(site.config_file), *arguments)
    again = site.run("pick", "--config", str(site.config_file), *arguments)
    site.stop(daemon)
    assert picked.returncode == 0, picked.stderr
    lines = [json.loads(line) for line in picked.stdout.splitlines()]
    assert len(lines) == 2
    assert again.stdout == "", "the cursor remembers"

    rng = np.random.default_rng(0)
    hits = by_chance = true = found = 0
    for path, line in zip(sorted(paths), sorted(lines, key=lambda one: one["micrograph"]), strict=True):
        truth = np.load(path.with_name(f"{path.stem}_truth.npz"))
        diameter = float(truth["diameter"]) / scope.pixel_size
        points = coordinates(line["coordinates"])
        hits += matched(points, truth["particles"], 0.25 * diameter)
        shuffled = rng.random(points.shape) * np.array(scope.shape)
        by_chance += matched(shuffled, truth["particles"], 0.25 * diameter)
        inner = (truth["particles"] >= 0.4 * diameter) & (truth["particles"] < np.array(scope.shape) - 0.4 * diameter)
        true, found = true + int(inner.all(1).sum()), found + len(points)
    assert hits > 0.7 * true
    assert hits > 0.7 * found
    assert hits > 3 * by_chance

    if shutil.which("relion_preprocess") is None:
        pytest.skip("relion is not installed")
    extract = (
        "relion_preprocess --i micrographs.star --coord_dir picks/ --coord_suffix _autopick.star "
        "--part_star Extract/particles.star --part_dir Extract/ --extract --extract_size 64"
    )
    done = subprocess.run(extract.split(), cwd=site.results, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    extracted = (site.results / "Extract" / "particles.star").read_text().count(".mrcs")
    assert extracted == found
