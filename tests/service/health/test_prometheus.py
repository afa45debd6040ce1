from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import urllib.request
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.health.prometheus import MAX_VALUES, Metrics
from streamer.errors import ConfigError, Reason, ServiceError
from streamer.movie_record import ModelScore
from streamer.transfer_figures import CtfFigures
from tests.clocks import AskedClock
from tests.service_samples import UTC, full_fields, make_record

# reliability.md section 6, as far as it can be filled today.
NAMES = {
    "movies_detected",
    "movies",
    "movie_failures",
    "movies_pending",
    "oldest_pending_detected_timestamp_seconds",
    "last_movie_done_timestamp_seconds",
    "movie_ready_delay_seconds",
    "movie_latency_seconds",
    "stage_duration_seconds",
    "frames",
    "input_bytes",
    "output_bytes",
    "retries",
    "event_last_seq",
    "events_published",
    "replay_requests",
    "subscribers",
    "journal_commit_duration_seconds",
    "disk_free_bytes",
    "worker_restarts",
    "model_version",
    "model_promoted_timestamp_seconds",
    "model_candidates",
    "movie_model_gain_ratio",
    "specimen",
    "specimen_changes",
    "movies_empty",
    "training_active",
    "heartbeat_timestamp_seconds",
    "build_info",
    "alert_active",
    "movie_ssnr_full",
    "movie_snbr_half",
    "movie_total_motion_angstrom",
}


RINGS = CtfFigures(
    state="good",
    defocus_u_angstrom=12_400.0,
    defocus_v_angstrom=12_000.0,
    defocus_sd_angstrom=5.0,
    astigmatism_angstrom=400.0,
    fit_resolution_angstrom=3.6,
)


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of ours as ``name{label}`` and value."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[sample.name.removeprefix("streamer_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def touched() -> Metrics:
    """Every metric has been used."""
    metrics = Metrics(clock=AskedClock(lambda: 1000.0))
    metrics.detected()
    metrics.ready(5.0)
    fields = full_fields("a.tif")
    sr = dataclasses.replace(fields["metrics"].sr, confirmed=0.9, control=0.1)
    score = ModelScore(version="v0003", gain=2.5, gain_error=0.1, expected_gain=2.4)
    fields["metrics"] = dataclasses.replace(fields["metrics"], snbr_half_denoised=0.3, sr=sr, score=score)
    metrics.finished(make_record(**fields, ctf=RINGS), latency_s=3.0)
    metrics.finished(make_record(state="failed"), stage="align")
    metrics.retried("OutputError")
    metrics.pending({"ready": 3, "started": 1, "done": 9}, 900.0)
    metrics.published("movie")
    metrics.answered("REPLAY", "ok")
    metrics.log(17, 2)
    metrics.commit(0.002)
    metrics.disks({"output": 10**9})
    metrics.worker_restarted()
    metrics.specimen(2, changed=True)
    metrics.empty_movie()
    metrics.model("v0003", UTC)
    metrics.candidate("promoted")
    metrics.candidate("rejected", "cryo-zssr")
    metrics.training(True)
    metrics.alive("scheduler")
    metrics.alert("disk-full", True)
    metrics.build("0.1.0", "cpu")
    return metrics


def test_what_is_exported() -> None:
    found = samples(touched())
    expected = {
        "movies_detected_total": 1,
        "movies_total{done}": 1,
        "movies_total{failed}": 1,
        "movie_failures_total{MovieCorrupt,align}": 1,
        "movies_pending{ready}": 3,
        "movies_pending{started}": 1,
        "oldest_pending_detected_timestamp_seconds": 900,
        "last_movie_done_timestamp_seconds": 1000,
        "movie_ready_delay_seconds_sum": 5,
        "movie_latency_seconds_sum": 3,
        "movie_latency_seconds_count": 1,
        "stage_duration_seconds_sum{align}": 0.5,
        "frames_total": 4,
        "input_bytes_total": 100,
        "output_bytes_total": 1000,
        "retries_total{OutputError}": 1,
        "event_last_seq": 17,
        "events_published_total{movie}": 1,
        "replay_requests_total{ok}": 1,
        "subscribers": 2,
        "journal_commit_duration_seconds_sum": 0.002,
        "disk_free_bytes{output}": 1e9,
        "worker_restarts_total": 1,
        "model_version": 3,
        "model_promoted_timestamp_seconds": 1795176000,
        "model_candidates_total{promoted}": 1,
        "super_resolution_candidates_total{cryo-zssr,rejected}": 1,
        "movie_model_gain_ratio{own}": 2.5,
        "movie_model_gain_ratio{expected}": 2.4,
        "specimen": 2,
        "specimen_changes_total": 1,
        "movies_empty_total": 1,
        "training_active": 1,
        "heartbeat_timestamp_seconds{scheduler}": 1000,
        "alert_active{disk-full}": 1,
        "movie_ssnr_full": 0.2,
        "movie_snbr_half{raw}": 0.1,
        "movie_snbr_half{wiener}": 0.15,
        "movie_snbr_half{denoised}": 0.3,
        "movie_total_motion_angstrom": 1.5,
        "movie_hot_pixels": 3,
        "movies_ctf_total{good}": 1,
        "movie_defocus_angstrom": 12_200,
        "movie_defocus_sd_angstrom": 5,
        "movie_astigmatism_angstrom": 400,
        "movie_ctf_fit_resolution_angstrom": 3.6,
        "ctf_defocus_angstrom_sum": 12_200,
        "ctf_fit_resolution_angstrom_sum": 3.6,
        "super_resolution_verdicts_total{cannot help}": 1,
        "movie_super_resolution_confirmed_ratio{own}": 0.9,
        "movie_super_resolution_confirmed_ratio{control}": 0.1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert any(name.startswith("build_info{") and "0.1.0" in name for name in found)
    assert "process_resident_memory_bytes" in found


def test_a_movie_without_rings_leaves_no_defocus_of_the_one_before() -> None:
    metrics = touched()
    metrics.finished(make_record(ctf=CtfFigures(state="none")))
    found = samples(metrics)
    assert not [name for name in found if name.startswith(("movie_defocus", "movie_astigmatism", "movie_ctf"))]
    assert (found["movies_ctf_total{good}"], found["movies_ctf_total{none}"]) == (1, 1)
    assert found["ctf_defocus_angstrom_count"] == 1


def test_every_agreed_name_exists_with_our_prefix() -> None:
    families = {family.name for family in text_string_to_metric_families(generate_latest(touched().registry).decode())}
    assert {f"streamer_{name}" for name in NAMES} <= families
    foreign = {name for name in families if not name.startswith(("streamer_", "process_", "python_"))}
    assert not foreign


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    def check(dump: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["promtool", "check", "metrics"], input=dump, capture_output=True, check=False)

    dump = generate_latest(touched().registry)
    done = check(dump)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    # The control: it does look.
    assert check(dump.replace(b"streamer_frames_total", b"streamer_framesSeen")).returncode != 0


def test_what_is_unknown_is_not_exported() -> None:
    found = samples(Metrics())
    for name in (
        "oldest_pending_detected_timestamp_seconds",
        "model_version",
        "movie_ssnr_full",
        "subscribers",
    ):
        assert name not in found
    metrics = touched()
    metrics.pending({}, None)
    metrics.model(None, None)
    fields = full_fields("a.tif")
    metrics.finished(make_record(**fields))
    found = samples(metrics)
    assert "oldest_pending_detected_timestamp_seconds" not in found
    assert "model_version" not in found
    assert "movie_snbr_half{denoised}" not in found
    assert found["movies_pending{ready}"] == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_never_nan(value: float) -> None:
    metrics = touched()
    fields = full_fields("a.tif")
    fields["times"].stage_s["align"] = value
    fields["metrics"] = dataclasses.replace(fields["metrics"], ssnr_full=value)
    metrics.finished(make_record(**fields), latency_s=value)
    metrics.ready(value)
    metrics.commit(value)
    metrics.pending({}, value)
    found = samples(metrics)
    assert all(math.isfinite(number) for number in found.values())
    assert "movie_ssnr_full" not in found


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    metrics = Metrics()
    metrics.finished(make_record(), latency_s=-3600.0)
    found = samples(metrics)
    assert found["movie_latency_seconds_count"] == 0
    assert found["movies_total{done}"] == 1


def test_labels_are_bounded_whatever_happens() -> None:
    metrics = Metrics()
    before = len(samples(metrics))
    for i in range(500):
        reason = Reason(error=f"Error{i}", message="")
        fields = {"reason": reason, "metrics": None}
        metrics.finished(make_record(state="failed", **fields), stage=f"stage{i}")
        metrics.retried(f"Error{i}")
        metrics.published(f"kind{i}")
        metrics.disks({f"volume{i}": i})
        metrics.alert(f"alert{i}", True)
        metrics.alive(f"part{i}")
        metrics.candidate(f"result{i}")
        metrics.answered("REPLAY", f"CODE{i}")
    found = samples(metrics)
    assert len(found) - before <= 9 * (MAX_VALUES + 1)
    assert found["retries_total{other}"] == 500 - MAX_VALUES


def test_no_movie_session_or_path_becomes_a_label() -> None:
    text = generate_latest(touched().registry).decode()
    for secret in ("grid1", "a.tif", "a.mrc", make_record().movie_id):
        assert secret not in text
    assert text.count("\n") < 600


def test_no_second_series_for_when_a_counter_was_made() -> None:
    assert "_created" not in generate_latest(touched().registry).decode()


def get(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read()


def test_serving_and_stopping() -> None:
    metrics = touched()
    port = metrics.serve(0)
    assert b"streamer_movies_total" in get(port)
    other = Metrics()
    with pytest.raises(ServiceError, match="another instance") as caught:
        other.serve(port)
    assert caught.value.exit_code == 74
    metrics.stop()
    metrics.stop()
    with pytest.raises(OSError, match="refused"):
        get(port)


@pytest.mark.parametrize("address", ["0.0.0.0", "", "::", "192.168.1.5", "example.org"])
def test_serving_beyond_loopback_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="not secured by keys yet") as caught:
        Metrics().serve(0, address)
    assert caught.value.exit_code == 78


def test_two_daemons_in_one_process_do_not_share_figures() -> None:
    one, two = Metrics(), Metrics()
    one.detected()
    assert samples(two)["movies_detected_total"] == 0
