"""Tests of `eo_jax.load`: what is read, what is refused, and that JAX is not needed.

tests/unit/test_mistakes.py has mistakes in the file itself.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from exported import IMAGE, SENSOR, exported, tiny_encoder, write_export
from safetensors.numpy import load_file

from eo_jax.exchange import writing
from eo_jax.exchange.contract import to_header
from eo_jax.load import Weights, load

NAMES = [band.name for band in SENSOR.bands]
NM = [band.centre_nm for band in SENSOR.bands]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("exported") / "s2.safetensors", tiny_encoder())


@pytest.fixture(scope="module")
def weights(path) -> Weights:
    return load(path)


@pytest.fixture
def pixels() -> np.ndarray:
    """Two images [2, 12, 16, 16] of digital numbers, one value of them no data."""
    found = np.random.default_rng(0).integers(1, 4000, (2, 12, IMAGE, IMAGE), np.uint16)
    found[0, 3, 5, 6] = SENSOR.nodata
    return found


def test_tensors_and_contract_are_read_without_jax_and_torch(path):
    script = (
        "import sys\n"
        "for name in ('jax', 'flax', 'torch', 'orbax', 'grain'): sys.modules[name] = None\n"
        "import json; from eo_jax.load import load\n"
        f"weights = load({str(path)!r})\n"
        "print(json.dumps([sorted(weights.tensors), weights.contract['architecture']]))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    keys, architecture = json.loads(out)
    assert keys == sorted(load_file(path))
    assert architecture == {
        "width": 96,
        "channels": 12,
        "patch": 8,
        "layer_norm_epsilon": 1e-6,
        "depth": 1,
        "heads": 3,
        "tokens": 4,
        "class_token": True,
        "registers": 0,
        "positions": "sincos",
    }


def test_the_contract_says_what_was_trained_on(weights):
    assert weights.contract["data"]["licence"] == "CC-BY-4.0"
    assert weights.contract["normalisation_source"] == "training split of the store"
    assert weights.sensor == SENSOR


def test_digital_numbers_are_normalised_and_no_data_is_zero(weights, pixels):
    view = weights.normalise(pixels, sensor="sentinel2_l2a", bands=NAMES, nm=NM, scale=1e-4)
    mean, std = (np.array(values)[:, None, None] for values in (SENSOR.mean, SENSOR.std))
    expected = (pixels - mean) / std
    expected[0, 3, 5, 6] = 0
    assert view.dtype == np.float32 and view[0, 3, 5, 6] == 0
    np.testing.assert_allclose(view, expected, rtol=1e-5, atol=1e-6)


def test_bands_may_be_given_by_their_wavelengths_alone(weights, pixels):
    found = weights.normalise(pixels, sensor="sentinel2_l2a", nm=np.array(NM) + 0.3)
    expected = weights.normalise(pixels, sensor="sentinel2_l2a", bands=NAMES)
    np.testing.assert_array_equal(found, expected)


def test_bands_are_reordered_by_name_only_when_asked_and_with_a_warning(weights, pixels):
    order = np.random.default_rng(1).permutation(12)
    given = {"sensor": "sentinel2_l2a", "bands": [NAMES[i] for i in order]}
    mixed = np.concatenate([pixels[:, order], pixels[:, :1]], axis=1)
    given["bands"].append("cloud mask")
    with pytest.raises(ValueError, match=f"position 0 has {NAMES[order[0]]}.*reorder=True"):
        weights.normalise(mixed, **given)
    with pytest.warns(UserWarning, match="taken by name"):
        found = weights.normalise(mixed, **given, reorder=True)
    expected = weights.normalise(pixels, sensor="sentinel2_l2a", bands=NAMES)
    np.testing.assert_array_equal(found, expected)


REFUSED = {
    "no bands": ({"bands": None}, r"bands: not given.*B1, B2"),
    "swapped bands": (
        {"bands": [NAMES[1], NAMES[0], *NAMES[2:]]},
        "position 0 has B2, expected B1",
    ),
    "a band missing": ({"bands": [*NAMES[:-1], "B10"]}, "B12 of .* missing"),
    "a band twice": ({"bands": [*NAMES, "B4"]}, "B4 is given twice"),
    "other wavelengths": ({"nm": [*NM[:-1], 11000.0]}, "band 12 has 11000 nm"),
    "wavelengths of other bands": ({"bands": None, "nm": NM[::-1]}, "nm: .* wavelengths are not"),
    "fewer wavelengths": ({"nm": NM[:-1]}, "11 wavelengths for 12 bands"),
    "other sensor": ({"sensor": "sentinel2_l1c"}, "sensor: 'sentinel2_l1c'; the encoder is for"),
    "other scale": ({"scale": 1e-3}, "scale: 0.001; .* has 0.0001"),
    "other offset": ({"offset": -0.1}, "offset: -0.1"),
    "other no-data": ({"nodata": 65535}, "nodata: 65535"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_input_that_does_not_fit_is_refused_by_name(weights, pixels, mistake):
    change, message = REFUSED[mistake]
    with pytest.raises(ValueError, match=message):
        weights.normalise(pixels, **{"sensor": "sentinel2_l2a", "bands": NAMES} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * np.float32(1e-4), "dtype: float32; .* uint16 digital numbers"),
        (lambda x: x.astype(np.int32), "dtype: int32"),
        (lambda x: x[0], r"expected \[b, c, h, w\]"),
        (lambda x: x.transpose(0, 2, 3, 1), "have 16 bands, expected 12"),
        (lambda x: x[..., :8], "16 x 8 pixels; the positions in the file are for 16 x 16"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(weights, pixels, change, message):
    with pytest.raises(ValueError, match=message):
        weights.normalise(change(pixels), sensor="sentinel2_l2a", bands=NAMES)


def test_a_file_without_a_contract_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"norm.weight": np.ones(3, np.float32)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="has no contract"):
        load(tmp_path / "plain.safetensors")


def test_shards_are_read_by_their_index(path, tmp_path, monkeypatch):
    tensors, contract = exported(tiny_encoder(), IMAGE)
    monkeypatch.setattr(writing, "_SHARD_BYTES", 200_000)
    writing.write_model(tmp_path / "s2.safetensors", tensors, to_header(contract))
    index = tmp_path / "s2.safetensors.index.json"
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole, found = load(path), load(index)
    assert found.contract == whole.contract and found.tensors.keys() == whole.tensors.keys()
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    with pytest.raises(ValueError, match="lacks "):
        load(shard)
    shard.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValueError, match=f"{shard.name} is not beside it"):
        load(index)


@pytest.mark.parametrize("name", ["../s2.safetensors", "/etc/passwd", "s2.pth"])
def test_an_index_names_nothing_outside_its_folder(tmp_path, name):
    index = tmp_path / "s2.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"norm.weight": name}}))
    with pytest.raises(ValueError, match="weight_map names"):
        load(index)
