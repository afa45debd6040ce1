import msgspec
import pytest

from models.manifest import DENOISERS, MANIFEST, Figures, Manifest, MovieScore, NetConfig, load_manifest
from streamer.errors import ModelError
from tests.model_samples import manifest


def test_what_was_written_is_read(tmp_path):
    score = MovieScore(movie_id="a", snbr_raw=0.1, snbr_wiener=0.2, snbr=0.4, bias_ratio=0.0, loss=1.5, loss_wiener=1.6)
    written = manifest(
        parent="v0000",
        trained_on=["a"],
        held_out=["b"],
        losses=[1.0, 0.5],
        figures=Figures(scores=[score], weight=[(0.1, 1.0)], probes={"injected": 1.0}),
    )
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(written))
    assert load_manifest(tmp_path) == written


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no model version here"),
        (b"", "damaged manifest"),
        (b"{", "damaged manifest"),
        (b"[]", "damaged manifest"),
        (b"\xff\xfe", "damaged manifest"),
        (b'{"version": "v0001"}', "damaged manifest"),
        (b'{"net": {"widths": "wide"}}', "damaged manifest"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, content, says):
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        load_manifest(tmp_path)
    assert MANIFEST in caught.value.where


def test_another_format_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(manifest(format="streamer.model/2")))
    with pytest.raises(ModelError, match=r"unknown format.*streamer\.model/1.*streamer\.model/2"):
        load_manifest(tmp_path)


def test_unknown_settings_of_a_net_are_refused_and_new_remarks_are_not(tmp_path):
    plain = msgspec.to_builtins(manifest())
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(plain | {"remark": "later"}))
    assert load_manifest(tmp_path) == manifest()
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(plain | {"net": {"dropout": 0.5}}))
    with pytest.raises(ModelError, match="dropout"):
        load_manifest(tmp_path)


def test_the_default_net_is_the_one_that_was_measured():
    assert DENOISERS["small"] == NetConfig(kind="wiener-residual-unet", widths=(24, 32, 48), stride=2)
    assert Manifest.__struct_fields__[0] == "format"
