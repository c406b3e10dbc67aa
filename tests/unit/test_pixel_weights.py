"""Tests of `eo_jax_pixels.py`: exported pixel encoders load strictly there and give the same
features, by way of the exported file and `eo_jax_torch.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from exported import weights_of, write_export
from reference import relative_error
from scipy.io import loadmat

from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems import identity
from eo_jax.models.trunks import spectral_cnn, spectral_mlp, spectral_transformer
from eo_jax.sensors import get_sensor

torch = pytest.importorskip("torch")
import eo_jax_pixels  # noqa: E402  torch may be absent
import eo_jax_torch  # noqa: E402

SIDE = 15
PAVIA = get_sensor("rosis_pavia_university")
SENSOR = dataclasses.replace(PAVIA, mean=(2500.0,) * 103, std=(900.0,) * 103)
NAMES = [band.name for band in SENSOR.bands]
TRUNKS = {
    "pixel": spectral_cnn.Config(width=16, layers=3, kernel=5),
    "mean of a window": spectral_cnn.Config(window=3, width=16, layers=2),
    "window": spectral_cnn.Config(window=5, dims=3, width=16, layers=4),
    "dense": spectral_mlp.Config(width=16, hidden=24),
    "dense, mean of a window": spectral_mlp.Config(window=3, width=16, hidden=24, layers=1),
    "transformer": spectral_transformer.Config(depth=2),
    "transformer of a window": spectral_transformer.Config(window=3, bands_per_token=5, depth=1),
}


@pytest.fixture(scope="module")
def pixels(request) -> np.ndarray:
    """Two images uint16 [2, 103, 15, 15] of Pavia, scaled as its file has them, or random ones."""
    try:
        folder = request.getfixturevalue("sample_data")
    except pytest.skip.Exception:
        return np.random.default_rng(0).integers(0, 8000, (2, 103, SIDE, SIDE), np.uint16)
    scene = loadmat(folder / "hyperspectral" / "pavia_university" / "reg_pavia_dataset.mat")["I1"]
    images = np.stack([scene[:SIDE, :SIDE], scene[40 : 40 + SIDE, 20 : 20 + SIDE]])
    return np.round(8000 / scene.max() * images).astype(np.uint16).transpose(0, 3, 1, 2).copy()


def features_of(encoder, view: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    return jax.jit(encoder.features)(*weights_of(encoder), view, valid)


@pytest.mark.parametrize("name", TRUNKS)
def test_exported_pixel_encoders_give_the_same_features_in_pytorch(name, pixels, tmp_path):
    encoder = make_encoder(identity.Config(), TRUNKS[name], SENSOR, np.dtype("float32"))
    path = write_export(tmp_path / "pixels.safetensors", encoder, SIDE)
    contract, _ = eo_jax_torch.read(path)
    network = eval(contract["constructor"], {"eo_jax_pixels": eo_jax_pixels})
    eo_jax_torch.load_encoder(path, network.eval())
    prepare = eo_jax_torch.Input(contract)
    view = prepare(torch.from_numpy(pixels), sensor=SENSOR.id, bands=NAMES)
    with torch.no_grad():
        found = network(view)
    images = view.movedim(1, -1).numpy()
    expected = features_of(encoder, images, np.ones((*images.shape[:3], 1), bool))
    dense = np.asarray(expected["dense"])
    assert np.ptp(dense, axis=(0, 1, 2)).max() > 0.01  # the pixels matter
    assert relative_error(found.movedim(1, -1).numpy(), dense) < 1e-5
    assert relative_error(found.mean((2, 3)).numpy(), expected["pooled"]) < 1e-5


def test_pixels_without_data_do_not_count_in_the_mean_of_a_window(tmp_path):
    encoder = make_encoder(
        identity.Config(), TRUNKS["mean of a window"], SENSOR, np.dtype("float32")
    )
    network = eo_jax_pixels.SpectralCNN(bands=103, window=3, width=16, layers=2).eval()
    eo_jax_torch.load_encoder(write_export(tmp_path / "w.safetensors", encoder, SIDE), network)
    rng = np.random.default_rng(0)
    view = rng.normal(size=(2, 6, 6, 103)).astype(np.float32)
    valid = rng.random((2, 6, 6, 1)) < 0.6
    valid[0, :3, :3] = False  # a window without data
    expected = features_of(encoder, view, valid)["dense"]
    given = torch.from_numpy(np.where(valid, view, 0)).movedim(-1, 1)
    with torch.no_grad():
        found = network(given, torch.from_numpy(valid[..., 0])).movedim(1, -1).numpy()
        without = network(given).movedim(1, -1).numpy()
    assert relative_error(found, expected) < 1e-5
    assert relative_error(without, expected) > 1e-3
