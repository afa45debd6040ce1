"""The commands that work on files, as a user types them."""

import json
import shutil

import mrcfile
import numpy as np
import pytest
from click.testing import CliRunner

from models.manifest import load_manifest
from models.networks import zssr
from models.versions.base_weights import shipped_base
from service.cli import main
from service.config import default_text
from streamer.errors import StreamerError, UsageError

SIMULATED = ("--size", "384", "384", "--frames", "16", "--pixel-size", "2.0", "--dose-per-frame", "2.5")


def run(*words):
    """Standard output of a command that ends well."""
    found = CliRunner().invoke(main.cli, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)
    assert found.exception is None
    return found.stdout


def refused(*words):
    """The error a command raises, as ``main`` would print it."""
    with pytest.raises(StreamerError) as caught:
        run(*words)
    return caught.value


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Two movies in EPU's layout with gain and sidecars."""
    directory = tmp_path_factory.mktemp("movies")
    run("simulate", directory, "--movies", 8, "--seed", 3, "--specimen", "random", *SIMULATED)
    return sorted(directory.rglob("*_fractions.tiff"))


@pytest.fixture(scope="module")
def few_pixels(tmp_path_factory):
    """Three movies for cryo-ZSSR, which goes over every pixel of every average with all its channels."""
    directory = tmp_path_factory.mktemp("few_pixels")
    exposure = ("--frames", "8", "--pixel-size", "2.0", "--dose-per-frame", "5.0")
    run("simulate", directory, "--movies", 3, "--seed", 3, "--specimen", "random", "--size", 96, 96, *exposure)
    return sorted(directory.rglob("*_fractions.tiff"))


@pytest.fixture(scope="module")
def gain(movies):
    (path,) = movies[0].parents[3].rglob("gain_reference.mrc")
    return path


@pytest.fixture(scope="module")
def processed(movies, gain, tmp_path_factory):
    """Where the outputs are, and the records."""
    out = tmp_path_factory.mktemp("out")
    options = ("--gain", gain, "--keep-groups", "--json", "--set", "outputs.dtype=float32")
    lines = run("process", *movies, "--output", out, *options)
    return out, [json.loads(line) for line in lines.splitlines()]


def directory_of(processed, index=0):
    out, records = processed
    record = records[index]
    return (out / record["session"] / record["outputs"][0]["path"]).parent


def file_of(processed, role, index=0):
    out, records = processed
    (path,) = [o["path"] for o in records[index]["outputs"] if o["role"] == role]
    return out / records[index]["session"] / path


def test_process_writes_every_movie_and_the_table_of_all(movies, processed):
    out, records = processed
    assert [record["state"] for record in records] == ["done"] * 8
    assert len({record["movie_id"] for record in records}) == 8
    assert records[0]["source"]["pixel_size"] == 2.0
    assert records[0]["source"]["gain"] is not None
    (table,) = out.rglob("micrographs.star")
    assert table.read_text().count("_fractions") >= 8


def test_process_says_in_words_what_it_did(movies, tmp_path):
    text = run("process", movies[0], "--output", tmp_path)
    assert "SSNR" in text
    assert "wiener" in text


def test_one_bad_movie_is_named_and_the_rest_is_done(movies, tmp_path):
    bad = tmp_path / "bad.tiff"
    bad.write_bytes(movies[0].read_bytes()[:20_000])
    found = CliRunner().invoke(
        main.cli, ["process", str(bad), str(movies[1]), "--output", str(tmp_path / "out")], standalone_mode=False
    )
    assert found.return_value == 1
    assert "bad.tiff" in found.stderr
    assert "cut, or still growing" in found.stderr
    assert len(list((tmp_path / "out").rglob("*_EVN.mrc"))) == 1


def test_motion_gives_the_shifts_of_the_record(movies, gain, processed):
    found = json.loads(run("motion", movies[0], "--gain", gain, "--json"))
    recorded = processed[1][0]["metrics"]["shifts_yx_px"]
    np.testing.assert_allclose(found["shifts_yx_px"], recorded, atol=1e-4)
    assert found["frames"] == 16
    np.testing.assert_allclose(np.array(found["shifts_yx_angstrom"]), 2.0 * np.array(recorded), atol=1e-3)
    assert "16 frames" in run("motion", movies[0])


@pytest.fixture(scope="module")
def gainless(movies, tmp_path_factory):
    """A movie with its sidecar, where there is no gain."""
    directory = tmp_path_factory.mktemp("gainless")
    for path in movies[0].parent.glob(movies[0].name.split("_fractions")[0] + "*"):
        shutil.copy(path, directory)
    return directory / movies[0].name


def test_motion_and_super_resolve_say_what_process_says_of_the_movie(gainless, tmp_path):
    record = json.loads(run("process", gainless, "--output", tmp_path / "out", "--json"))
    assert "gain: none" in record["flags"]
    found = json.loads(run("motion", gainless, "--json"))
    assert found["flags"] == record["flags"]
    assert "gain: none" in found["flags"]
    assert "[gain: none" in run("motion", gainless).splitlines()[0]
    assert "gain: none" in json.loads(run("super-resolve", gainless, "--output", tmp_path, "--json"))["flags"]
    assert "[gain: none" in run("super-resolve", gainless, "--output", tmp_path)


def test_a_path_in_an_option_keeps_its_quotes_and_backslashes(gainless):
    assert '/a"b\\c.mrc' in str(refused("motion", gainless, "--gain", 'a"b\\c.mrc'))


def test_quality_of_the_halves_is_that_of_the_record(processed):
    even, odd = file_of(processed, "even"), file_of(processed, "odd")
    found = json.loads(run("quality", even, odd, "--json"))
    assert found["pooled"]["ssnr_full"] == pytest.approx(processed[1][0]["metrics"]["ssnr_full"], rel=0.02)
    assert "gamma" not in found["pooled"]


def test_quality_judges_a_denoiser(processed, tmp_path):
    """The identity invents nothing; noise added by the denoiser lowers SNBR*."""
    even, odd = file_of(processed, "even"), file_of(processed, "odd")
    same = json.loads(run("quality", even, odd, "--denoised-even", even, "--denoised-odd", odd, "--json"))["pooled"]
    assert same["gamma"] == pytest.approx(1.0, abs=1e-6)
    assert same["snbr"] == pytest.approx(same["snr_half"], rel=1e-3)
    noisy = []
    for seed, path in enumerate((even, odd)):
        with mrcfile.open(path) as file:
            image = file.data.astype(np.float32)
        noisy.append(tmp_path / f"{seed}.mrc")
        with mrcfile.new(str(noisy[-1])) as file:
            file.set_data(image + np.random.default_rng(seed).normal(0, image.std(), image.shape).astype(np.float32))
    worse = ("--denoised-even", noisy[0], "--denoised-odd", noisy[1])
    text = run("quality", even, odd, *worse, "--pixel-size", 2.0, "--json")
    assert json.loads(text)["pooled"]["snbr"] < 0.7 * same["snbr"]
    assert "SNBR*" in run("quality", even, odd, *worse)


@pytest.fixture(scope="module")
def directories(processed, tmp_path_factory):
    """Halves as another program keeps them, and blurred ones as its denoiser might."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("even", "odd", "denoised_even", "denoised_odd")}
    for index in range(len(processed[1])):
        for half in ("even", "odd"):
            path = file_of(processed, half, index)
            shutil.copy(path, places[half] / path.name)
            with mrcfile.open(path) as file:
                image, pixel = file.data.astype(np.float32), file.voxel_size.x
            blurred = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-40 * _radius(image.shape) ** 2), image.shape)
            with mrcfile.new(str(places[f"denoised_{half}"] / f"{path.stem}_denoised.mrc")) as file:
                file.set_data((0.01 * blurred).astype(np.float32))
                file.voxel_size = pixel
    return places


def _radius(shape):
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])


def test_quality_judges_directories_of_any_program(processed, directories):
    """Pairs are found by name; figures are pooled, with intervals over micrographs and checks."""
    words = ("quality", directories["even"], directories["odd"], "--denoised-even", directories["denoised_even"])
    words = (*words, "--denoised-odd", directories["denoised_odd"])
    found = json.loads(run(*words, "--json"))
    assert (found["micrographs"], found["intervals_over"]) == (len(processed[1]), "micrographs")
    pooled = found["pooled"]
    assert pooled["snbr"] > pooled["snr_half"], "a blur is better than nothing"
    assert pooled["gamma"] < 0.02, "the scale of its output does not matter"
    for name in ("snr_half", "gamma", "bias", "bias_total", "noise", "snbr", "snr_denoised", "sbr"):
        lower, upper = found["intervals"][name]
        assert lower <= pooled[name] <= upper, name
    shell = found["shells"][8]
    assert shell["snbr_lower"] <= shell["snbr"] <= shell["snbr_upper"]
    # ring by ring a linear filter changes nothing
    for shell in found["shells"][6:20]:
        assert shell["snbr"] == pytest.approx(shell["ssnr_half"], rel=0.15)
    checks = {check["name"]: check for check in found["checks"]}
    assert set(checks) == {"rising_to_nyquist", "cauchy_schwarz", "negative_bias", "other_micrograph"}
    assert all(check["ok"] for check in found["checks"]), checks
    text = run(*words)
    assert "ssnr_full" in text
    assert f"pooled over {len(processed[1])} micrographs" in text
    assert "95 % intervals over micrographs" in text
    assert "check other_micrograph: ok" in text


def test_quality_of_one_micrograph_has_intervals_over_its_tiles(processed):
    even, odd = file_of(processed, "even"), file_of(processed, "odd")
    found = json.loads(run("quality", even, odd, "--json"))
    assert found["intervals_over"] == "tiles"
    lower, upper = found["intervals"]["snr_half"]
    assert lower < found["pooled"]["snr_half"] < upper


def test_quality_finds_a_leak(processed, directories, tmp_path):
    """A denoiser that was given both halves: the check fails and says what it means."""
    places = [tmp_path / "even", tmp_path / "odd"]
    for place in places:
        place.mkdir()
    for path in directories["even"].iterdir():
        twin = directories["odd"] / path.name.replace("_EVN", "_ODD")
        with mrcfile.open(path) as one, mrcfile.open(twin) as other:
            pixel = one.voxel_size.x
            images = one.data + 0.5 * other.data, other.data + 0.5 * one.data
        for place, image, name in zip(places, images, (path.name, twin.name), strict=True):
            with mrcfile.new(str(place / name)) as file:
                file.set_data(image.astype(np.float32))
                file.voxel_size = pixel
    words = ("quality", directories["even"], directories["odd"], "--denoised-even", places[0], "--denoised-odd")
    text = run(*words, places[1])
    assert "check negative_bias: FAILED" in text
    assert "a leak" in text


def test_quality_looks_at_zeros_of_the_ctf(processed, directories, tmp_path):
    names = [path.stem.removesuffix("_EVN") for path in sorted(directories["even"].iterdir())]
    star = tmp_path / "ctf.star"
    columns = ("MicrographName", "DefocusU", "DefocusV", "DefocusAngle", "Voltage", "SphericalAberration")
    head = "".join(f"_rln{name}\n" for name in (*columns, "AmplitudeContrast"))
    rows = [f"{name}.mrc 12000 12000 0 300 2.7 0.1\n" for name in names]
    star.write_text(f"data_\nloop_\n{head}{''.join(rows)}")
    words = ("quality", directories["even"], directories["odd"], "--ctf", star, "--json")
    (check,) = [c for c in json.loads(run(*words))["checks"] if c["name"] == "ctf_zeros"]
    assert check["value"] is not None
    star.write_text(f"data_\nloop_\n{head}{rows[0]}")
    assert f"the CTF of a micrograph is missing; expected {names[1].removesuffix('_fractions')}" in str(refused(*words))


def test_quality_refuses_directories_that_do_not_belong_together(directories, tmp_path):
    even, odd = directories["even"], directories["odd"]
    assert "files and directories are mixed" in str(refused("quality", next(even.iterdir()), odd))
    assert "no images with the same name" in str(refused("quality", even, tmp_path))
    shutil.copy(next(iter(sorted(odd.iterdir()))), tmp_path)
    assert "are not in all of the directories" in str(refused("quality", even, tmp_path))


def test_quality_refuses_what_is_not_a_pair(processed, tmp_path):
    even, odd = file_of(processed, "even"), file_of(processed, "odd")
    assert "both denoised halves are needed" in str(refused("quality", even, odd, "--denoised-even", even))
    assert "the band contains no ring" in str(refused("quality", even, odd, "--band", 6, 100))
    assert "there is no such file" in str(refused("quality", even, tmp_path / "none.mrc"))
    with mrcfile.new(str(tmp_path / "small.mrc")) as file:
        file.set_data(np.zeros((8, 8), np.float32))
    assert "differ in size" in str(refused("quality", even, tmp_path / "small.mrc"))
    assert "the pixel size is unknown" in str(refused("quality", tmp_path / "small.mrc", tmp_path / "small.mrc"))
    (tmp_path / "text.mrc").write_text("no image")
    assert "cannot be read as an image" in str(refused("quality", even, tmp_path / "text.mrc"))


def test_quality_refuses_one_image_for_both_halves(processed, tmp_path):
    """The noise of the two would be taken for signal: an SSNR without end."""
    even, odd = file_of(processed, "even"), file_of(processed, "odd")
    copy = shutil.copy(even, tmp_path / "copy.mrc")
    for other in (even, copy):
        error = refused("quality", even, other)
        assert isinstance(error, UsageError)
        assert "the two halves are the same image" in str(error)
    denoised = ("--denoised-even", even, "--denoised-odd", copy)
    assert "the two denoised halves are the same image" in str(refused("quality", even, odd, *denoised))


def test_super_resolve_writes_the_finer_image_with_its_verdict(movies, tmp_path):
    found = json.loads(run("super-resolve", movies[0], "--output", tmp_path, "--json"))
    with mrcfile.open(found["image"]) as file:
        assert file.data.shape == (768, 768)
        assert float(file.voxel_size.x) == pytest.approx(1.0)
        assert b"NOT FOR RECONSTRUCTION" in b" ".join(bytes(label) for label in file.header.label)
    assert found["sr"]["verdict"] in {"helps", "not shown", "cannot help"}
    assert len(list(tmp_path.glob("*_SR_thumbnail.png"))) == 1


def result_of(*words):
    """Standard output as JSON, and the exit status."""
    words = [str(word) for word in words]
    found = CliRunner().invoke(main.cli, words, catch_exceptions=False, standalone_mode=False)
    return json.loads(found.stdout), found.return_value


def test_cryo_zssr_is_trained_on_a_session_and_applied(few_pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(zssr, "WIDTH", 8)
    movies = few_pixels
    training = ("models", "train-super-resolution", *movies[:2], "--method", "zssr", "--steps", 2)
    result, status = result_of(*training, "--out", tmp_path / "v0001", "--json")
    assert (status, result["steps"], result["method"], len(result["trained_on"])) == (0, 2, "zssr", 2)
    made = ("super-resolve", movies[2], "--method", "zssr", "--model", tmp_path / "v0001")
    found = json.loads(run(*made, "--output", tmp_path, "--json"))
    assert (found["sr"]["method"], found["sr"]["model"]["version"]) == ("zssr", "v0001")
    with mrcfile.open(found["image"]) as file:
        assert file.data.shape == (192, 192)
        assert b"cryo-ZSSR" in b" ".join(bytes(label) for label in file.header.label)
    assert "a version of this name already exists" in str(refused(*training, "--out", tmp_path / "v0001"))
    assert "unknown network" in str(
        refused("super-resolve", movies[2], "--model", tmp_path / "v0001", "--output", tmp_path)
    )


def test_cryo_zssr_is_trained_on_the_movie_itself(few_pixels, tmp_path, monkeypatch):
    movies = few_pixels
    monkeypatch.setattr(zssr, "WIDTH", 8)
    monkeypatch.setattr(zssr.train, "__kwdefaults__", zssr.train.__kwdefaults__ | {"most_steps": 1})
    made = ("super-resolve", movies[0], "--method", "zssr", "--per-movie")
    found = json.loads(run(*made, "--output", tmp_path, "--json"))
    assert (found["sr"]["method"], found["sr"]["model"]) == ("zssr", None)
    assert "--method zssr" in str(refused("super-resolve", movies[0], "--per-movie", "--output", tmp_path))
    both = ("--method", "zssr", "--per-movie", "--model", tmp_path)
    assert "or train on the movie" in str(refused("super-resolve", movies[0], *both, "--output", tmp_path))


@pytest.mark.slow
def test_a_network_on_fusion_is_trained_judged_and_applied(movies, gain, tmp_path):
    training = ("models", "train-super-resolution", *movies[:4], "--steps", 2, "--gain", gain)
    result, status = result_of(*training, "--out", tmp_path / "v0001", "--json")
    assert (len(result["trained_on"]), len(result["held_out"])) == (2, 2)
    # two steps teach nothing: it is kept and changes nothing
    assert (status, result["promoted"]) == (1, False)
    assert "better than by the fused image" in result["reason"]
    made = ("super-resolve", movies[4], "--model", tmp_path / "v0001", "--gain", gain, "--output", tmp_path, "--json")
    found = json.loads(run(*made))
    assert (found["sr"]["method"], found["sr"]["model"]["version"]) == ("network", "v0001")
    assert "at least 4" in str(refused("models", "train-super-resolution", movies[0], "--out", tmp_path / "v0002"))


@pytest.fixture(scope="module")
def trained(processed, tmp_path_factory):
    """A version of a few steps, whatever the gate thinks of it, and what the command said."""
    directory = tmp_path_factory.mktemp("models") / "v0001"
    words = ["models", "train", str(processed[0]), "--out", str(directory), "--steps", "4", "--json"]
    found = CliRunner().invoke(main.cli, words, catch_exceptions=False, standalone_mode=False)
    return directory, json.loads(found.stdout), found.return_value


def test_models_train_judges_what_it_trained(trained):
    directory, result, status = trained
    assert result["steps"] == 4
    assert not set(result["trained_on"]) & set(result["held_out"])
    assert len(result["trained_on"]) + len(result["held_out"]) == 8
    assert status == (result["decision"]["result"] != "promoted")
    shown = json.loads(run("models", "show", directory))
    assert shown["version"] == "v0001"
    assert shown["steps"] == 4
    assert shown["trained_on"] == result["trained_on"]


def test_models_train_gives_the_same_weights_again_and_overwrites_nothing(trained, processed, tmp_path):
    directory, _, _ = trained
    words = ("models", "train", processed[0], "--steps", 4)
    run(*words, "--out", tmp_path / "v0001")
    for name in ("manifest.json", "model.safetensors"):
        assert (tmp_path / "v0001" / name).read_bytes() == (directory / name).read_bytes()
    assert "exists" in str(refused(*words, "--out", directory)) or "there" in str(refused(*words, "--out", directory))
    assert "not both" in str(refused(*words, "--out", tmp_path / "x", "--seconds", 1.0))


def test_models_train_does_not_go_on_from_unflipped_phases_with_flipped_ones(trained, processed, ctf, tmp_path):
    words = ("models", "train", processed[0], "--out", tmp_path / "v", "--steps", 1, "--start", trained[0])
    assert "omit --ctf" in str(refused(*words, "--ctf", ctf))


@pytest.mark.slow
def test_models_compare_judges_two_versions_on_movies_that_neither_saw(trained, processed, tmp_path):
    directory, result, _ = trained
    longer = tmp_path / "v0002"
    words = ["models", "train", str(processed[0]), "--out", str(longer), "--steps", "40", "--start", str(directory)]
    CliRunner().invoke(main.cli, words, catch_exceptions=False, standalone_mode=False)
    found = json.loads(run("models", "compare", directory, longer, processed[0], "--json"))
    assert sorted(found["movies"]) == sorted(result["held_out"])
    assert found["first"]["version"] == "v0001"
    assert found["second"]["version"] == "v0002"
    low, high = found["loss_interval"]
    assert low <= found["loss_difference"] <= high
    same = json.loads(run("models", "compare", directory, directory, processed[0], "--json"))
    assert (same["loss_difference"], same["verdict"]) == (0.0, "no difference is shown")
    assert "on 3 movies" in run("models", "compare", directory, longer, processed[0])
    assert "different bands" in str(refused("models", "compare", directory, shipped_base(), processed[0]))
    assert "too few movies" in str(refused("models", "compare", directory, longer, directory_of(processed, 0)))


def test_models_export_takes_a_version_along(trained, tmp_path):
    assert "4 steps" in run("models", "export", trained[0], "--to", tmp_path / "mine")
    shown = json.loads(run("models", "show", tmp_path / "mine"))
    assert shown["version"] == "mine"
    assert shown["sha256"] == json.loads(run("models", "show", trained[0]))["sha256"]
    assert "already exists" in str(refused("models", "export", trained[0], "--to", tmp_path / "mine"))


@pytest.mark.slow
def test_models_train_base_learns_from_simulated_sessions_and_named_ones(processed, tmp_path, monkeypatch):
    monkeypatch.setattr("models.training.simulated._SIDE", 320)
    monkeypatch.setattr("service.offline.train_base_weights._JUDGED", 1)
    words = ["models", "train", str(processed[0]), "--base", "--specimens", "2", "--steps", "2", "--seed", "3"]
    found = CliRunner().invoke(
        main.cli, [*words, "--out", str(tmp_path / "one"), "--json"], catch_exceptions=False, standalone_mode=False
    )
    result = json.loads(found.stdout)
    made = load_manifest(tmp_path / "one")
    assert made.general
    assert made.pattern_sha256 is None
    simulated = [movie_id for movie_id in made.trained_on if movie_id.startswith("simulated-3-")]
    assert simulated
    assert len(made.trained_on) > len(simulated), "the session that was named"
    assert all(movie_id.startswith("simulated-3-2-") for movie_id in result["held_out"])
    again = [*words, "--out", str(tmp_path / "two")]
    CliRunner().invoke(main.cli, again, catch_exceptions=False, standalone_mode=False)
    assert load_manifest(tmp_path / "two").sha256 == made.sha256, "the same seed, the same weights"
    assert "without phase flipping" in str(refused(*again[:-1], tmp_path / "x", "--start", tmp_path / "one"))
    assert "no movies to train on" in str(refused("models", "train", "--out", tmp_path / "x"))


def test_the_shipped_weights_serve_a_movie_by_name(movies, tmp_path):
    (record,) = [json.loads(line) for line in run("process", movies[0], "--output", tmp_path, "--model", "shipped",
                                                  "--json").splitlines()]  # fmt: skip
    assert record["restoration"] == "network"
    assert record["model"]["sha256"] == load_manifest(shipped_base()).sha256
    assert record["metrics"]["score"]["gain"] > 1.0


def test_base_weights_are_probed_on_movies_of_any_pixel_size(processed):
    assert load_manifest(shipped_base()).pixel_size != processed[1][0]["source"]["pixel_size"]
    found = json.loads(run("models", "probe", shipped_base(), processed[0], "--json"))
    assert found["movies"] == 8


def test_models_train_needs_movies(tmp_path):
    error = refused("models", "train", tmp_path, "--out", tmp_path / "v")
    assert isinstance(error, UsageError)
    assert "process them with --keep-groups" in str(error)


def test_denoise_applies_a_model_to_a_finished_movie(trained, processed, tmp_path):
    words = ("denoise", directory_of(processed, 0), "--model", trained[0], "--output", tmp_path, "--json")
    found = json.loads(run(*words))
    assert found["model"] == "v0001"
    assert len(found["files"]) == 3
    with mrcfile.open(found["files"][0]) as file:
        image = file.data.astype(np.float64)
        assert b"NOT FOR RECONSTRUCTION" in b" ".join(bytes(label) for label in file.header.label)
    assert np.isfinite(image).all()
    # without weight (the gate has not passed it) the result is the Wiener estimate that process wrote
    if trained[1]["decision"]["result"] != "promoted":
        assert found["restoration"] == "wiener"
        with mrcfile.open(file_of(processed, "denoised")) as file:
            served = file.data.astype(np.float64)
        assert np.corrcoef(served.ravel(), image.ravel())[0, 1] > 0.999


@pytest.fixture(scope="module")
def ctf(processed, tmp_path_factory):
    """The defocus of the processed movies as another program tells it."""
    star = tmp_path_factory.mktemp("ctf") / "micrographs_ctf.star"
    columns = ("MicrographName", "DefocusU", "DefocusV", "DefocusAngle", "Voltage", "SphericalAberration")
    head = "".join(f"_rln{name}\n" for name in (*columns, "AmplitudeContrast"))
    names = [file_of(processed, "micrograph", i).name for i in range(len(processed[1]))]
    star.write_text(f"data_\nloop_\n{head}" + "".join(f"{name} 12000 12000 0 300 2.7 0.1\n" for name in names))
    return star


def test_a_model_that_learned_from_flipped_phases_is_given_such(processed, ctf, tmp_path):
    """And refuses to guess: without the CTF it is not applied."""
    words = ["models", "train", str(processed[0]), "--out", str(tmp_path / "v0001"), "--steps", "2", "--ctf", str(ctf)]
    CliRunner().invoke(main.cli, words, catch_exceptions=False, standalone_mode=False)
    assert json.loads(run("models", "show", tmp_path / "v0001"))["ctf"] == "flip"
    denoise = ("denoise", directory_of(processed, 0), "--model", tmp_path / "v0001", "--output", tmp_path / "out")
    assert "the model needs the micrograph's CTF" in str(refused(*denoise))
    assert len(json.loads(run(*denoise, "--ctf", ctf, "--json"))["files"]) == 3
    assert "give --ctf" in str(refused("models", "probe", tmp_path / "v0001", processed[0]))
    again = ("models", "train", processed[0], "--out", tmp_path / "v0002", "--steps", 1, "--start", tmp_path / "v0001")
    assert "phases flipped: give --ctf" in str(refused(*again))


def test_models_probe_tells_what_a_version_does_where_the_answer_is_known(trained, processed):
    directory, result, _ = trained
    words = ["models", "probe", str(directory), str(processed[0])]
    found = CliRunner().invoke(main.cli, [*words, "--json"], catch_exceptions=False, standalone_mode=False)
    probed = json.loads(found.stdout)
    assert set(probed["probes"]) == {
        "noise_coherence",
        "blank_contrast",
        "other_movie_coherence",
        "injected",
        "injected_weak",
    }
    assert probed["movies"] == len(result["held_out"]), "what it learned from is left out"
    assert set(probed["limits"]) == set(probed["probes"])
    assert found.return_value == bool(probed["failure"])
    text = CliRunner().invoke(main.cli, words, catch_exceptions=False, standalone_mode=False).stdout
    assert "noise_coherence" in text
    assert "at most 0.05" in text


@pytest.mark.slow
def test_another_network_is_trained_when_it_is_asked_for(processed, tmp_path):
    words = ["models", "train", str(processed[0]), "--out", str(tmp_path / "v0001"), "--steps", "1"]
    CliRunner().invoke(main.cli, [*words, "--network", "restore"], catch_exceptions=False, standalone_mode=False)
    shown = json.loads(run("models", "show", tmp_path / "v0001"))
    assert shown["net"]["kind"] == "restore-wdsr-unet"
    words = ("denoise", directory_of(processed), "--model", tmp_path / "v0001", "--output", tmp_path / "o")
    found = json.loads(run(*words, "--json"))
    assert found["model"] == "v0001"


def test_denoise_refuses_what_is_no_output(trained, tmp_path):
    assert "not the output directory of one movie" in str(
        refused("denoise", tmp_path, "--model", trained[0], "--output", tmp_path)
    )


def test_init_and_check_config(tmp_path):
    path = tmp_path / "config.toml"
    run("init", path)
    assert path.read_text() == default_text()
    assert "--force" in str(refused("init", path))
    run("init", path, "--force")
    places = ("--set", f"watch.root={tmp_path / 'in'}", "--set", f"outputs.root={tmp_path / 'out'}")
    text = run("check-config", "--config", path, *places, "--set", f"instance.state={tmp_path / 'state'}")
    assert f"{tmp_path / 'in'}  (does not exist yet)" in text
    assert "none found yet" in text
    inside = ("--set", f"watch.root={tmp_path}", "--set", f"outputs.root={tmp_path / 'out'}")
    assert "must not contain each other" in str(refused("check-config", *inside))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("process", "none.tiff"), 1, "there is no such file"),
        (("motion", "none.tiff"), 64, "there is no such file"),
        (("run", "--config", "none.toml"), 78, "the configuration cannot be read"),
        (("run", "--set", "watch.rot=x"), 78, "did you mean root?"),
        (("monitor", "--once", "--set", "events.journal_port=1"), 74, ""),
    ],
)
def test_main_prints_one_line_and_gives_the_status(words, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    more = ("--output", str(tmp_path / "out")) if words[0] == "process" else ()
    monkeypatch.setattr("sys.argv", ["streamer", *words, *more])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_no_figure_of_a_movie_is_unseen_by_the_model_that_learned_from_it(trained, movies, processed, gain, tmp_path):
    """A copy of the version with weight, so that it speaks: once about a movie it knows, once about another."""
    version = tmp_path / "v0001"
    shutil.copytree(trained[0], version)
    shown = json.loads((version / "manifest.json").read_text())
    shown["weight"] = [[0.01, 0.5], [0.15, 0.5]]
    (version / "manifest.json").write_text(json.dumps(shown))
    ids = [record["movie_id"] for record in processed[1]]
    known, unseen = (ids.index(trained[1][key][0]) for key in ("trained_on", "held_out"))
    words = ("--model", version, "--gain", gain, "--json", "--output", tmp_path / "out")
    for index, has_figure in ((known, False), (unseen, True)):
        record = json.loads(run("process", movies[index], *words))
        assert record["restoration"] == "network"
        assert (record["metrics"]["snbr_half_denoised"] is not None) == has_figure
        assert any("was trained on this movie" in flag for flag in record["flags"]) != has_figure
