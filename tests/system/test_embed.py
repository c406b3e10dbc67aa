"""Tests of `python -m eo_jax.embed`: features are those by hand, at the right place, or there is an
error.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from embedding import AFFINE, Weights, run, write_tiff

from eo_jax import averaging
from eo_jax.embed import dense, pooled
from eo_jax.embed.blending import view_weights
from eo_jax.embed.images import Declared, Images
from eo_jax.embed.tiles import make_grid
from eo_jax.encoder_loading import from_file
from eo_jax.sensors import ENMAP, get_sensor
from eo_jax.trained_encoder import TrainedEncoder

S2 = get_sensor("sentinel2_l2a")
NAMES = [band.name for band in S2.bands]
PATCH, VIEW = 4, 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Weights:
    return Weights(tmp_path_factory.mktemp("weights") / "s2.safetensors", S2, PATCH, VIEW)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3000, (12, height, width)).astype(np.uint16)


def by_hand(weights: Weights, pixels: np.ndarray, overlap: int) -> np.ndarray:
    """[rows, columns, d]: each token is the weighted mean over the views that have it."""
    _, height, width = pixels.shape
    side = weights.view // weights.patch
    grid = make_grid(height, width, weights.patch, side, overlap)
    sums = np.zeros((grid.rows, grid.columns, weights.encoder.width))
    total, each = np.zeros(sums.shape[:2]), view_weights(side, overlap)
    for row in grid.row_starts:
        for column in grid.column_starts:
            top, left = row * weights.patch, column * weights.patch
            view = pixels[:, top : top + weights.view, left : left + weights.view]
            at = np.s_[row : row + side, column : column + side]
            sums[at] += each[..., None] * weights.features(view)["dense"]
            total[at] += each
    return sums / total[..., None]


# ----------------------------------------------------------------------------------------- dense


def test_a_map_is_the_blended_features_by_hand_at_their_place(weights, tmp_path, monkeypatch):
    pixels = scene(40, 52)
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES)
    output = tmp_path / "map.tif"
    assert (
        run(
            monkeypatch,
            "--mode=dense",
            f"--weights={weights.path}",
            f"--input={source}",
            f"--output={output}",
            "--batch-size=3",
        )
        == 0
    )
    with rasterio.open(output) as dataset:
        found = np.moveaxis(dataset.read(), 0, -1)
        assert dataset.profile["tiled"] and dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.crs == "EPSG:32633" and np.isnan(dataset.nodata)
        for row, column in ((0, 0), (9, 12), (4, 7)):  # the centre of a token is that of its pixels
            middle = AFFINE @ ((column + 0.5) * PATCH, (row + 0.5) * PATCH)
            np.testing.assert_allclose(dataset.xy(row, column), middle)
            assert dataset.index(*middle) == (row, column)
    np.testing.assert_allclose(found, by_hand(weights, pixels, 1), atol=1e-5)
    # A token that one view has is that view's.
    first = weights.features(pixels[:, :VIEW, :VIEW])["dense"]
    np.testing.assert_allclose(found[:3, :3], first[:3, :3], atol=1e-5)
    assert not (tmp_path / "map.tif.partial").exists()


def test_an_averaged_map_is_the_average_of_the_map(tmp_path, monkeypatch):
    landsat_like = get_sensor("sentinel2_l2a_bigearthnet")  # 0 is no-data
    masked = Weights(tmp_path / "w.safetensors", landsat_like, PATCH, VIEW)
    pixels = scene(80, 52)
    pixels[:, :8] = 0
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES, nodata=0)
    maps = {}
    for window in (1, 3):
        output = tmp_path / f"{window}.tif"
        asked = ("--mode=dense", f"--weights={masked.path}", f"--input={source}")
        assert run(monkeypatch, *asked, f"--output={output}", f"--average={window}") == 0
        with rasterio.open(output) as dataset:
            maps[window] = np.moveaxis(dataset.read(), 0, -1)
    plain = maps[1]
    valid = ~np.isnan(plain).any(-1)
    assert not valid[0].any() and valid[-1].all()
    like = averaging.likeness(plain, valid)  # the map is small: its strips are all of it
    expected = averaging.mean_of_similar(plain, valid, 3, like)
    np.testing.assert_allclose(maps[3][valid], expected[valid], rtol=1e-4, atol=1e-5)
    assert np.isnan(maps[3][~valid]).all()
    assert np.abs(maps[3] - plain)[valid].max() > 0.01
    # In pieces, as maps larger than the memory are read.
    made = dense.Map(
        *valid.shape,
        plain.shape[-1],
        None,
        None,
        {},
        lambda r, c, h, w: plain[r : r + h, c : c + w],
    )
    piece = dense.averaged(made, 3).read(4, 3, 5, 6)
    np.testing.assert_allclose(piece, maps[3][4:9, 3:9], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="--average: window: 2; expected an odd number"):
        run(monkeypatch, *asked, f"--output={tmp_path / 'x.tif'}", "--average=2")


def test_no_data_stays_and_borders_count(weights, tmp_path, monkeypatch):
    """A scene that patches do not divide, with a hole that covers some tokens whole."""
    landsat_like = get_sensor("sentinel2_l2a_bigearthnet")  # 0 is no-data
    masked = Weights(tmp_path / "w.safetensors", landsat_like, PATCH, VIEW)
    pixels = scene(22, 18)
    pixels[:, 4:9, 8:17] = 0
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES, nodata=0)
    output = tmp_path / "map.zarr"
    run(
        monkeypatch,
        "--mode=dense",
        f"--weights={masked.path}",
        f"--input={source}",
        f"--output={output}",
        "--overlap=0",
    )
    group = zarr.open_group(output, mode="r")
    found = np.moveaxis(group["features"][:], 0, -1)
    assert found.shape[:2] == (6, 5)
    empty = np.isnan(found).all(-1)
    expected = np.zeros((6, 5), bool)
    expected[1, 2:4] = True
    np.testing.assert_array_equal(empty, expected)
    view = np.zeros((12, VIEW, VIEW), np.uint16)  # the rest of the last view has no data
    view[:, :, :] = 0
    view[:, : 22 - 8, : 18 - 4] = pixels[:, 8:22, 4:18]
    np.testing.assert_allclose(
        found[2:6, 1:5][-2:, -1], masked.features(view)["dense"][-2:, -1], atol=1e-5
    )
    np.testing.assert_allclose(group["x"][:], 500_000 + 40 * (np.arange(5) + 0.5))
    np.testing.assert_allclose(group["y"][:], 5_800_000 - 40 * (np.arange(6) + 0.5))
    assert 'EPSG","32633"' in group["spatial_ref"].attrs["crs_wkt"]


def test_int8_maps_have_a_scale_per_channel(weights, tmp_path, monkeypatch):
    pixels = scene(16, 24)
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES)
    expected = by_hand(weights, pixels, 1)
    for output in (tmp_path / "map.tif", tmp_path / "map.zarr"):
        run(
            monkeypatch,
            "--mode=dense",
            f"--weights={weights.path}",
            f"--input={source}",
            f"--output={output}",
            "--dtype=int8",
        )
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.dtypes[0] == "int8" and dataset.nodata == -128
        tiff, scales = np.moveaxis(dataset.read(), 0, -1), np.array(dataset.scales)
    group = zarr.open_group(tmp_path / "map.zarr", mode="r")
    np.testing.assert_array_equal(np.moveaxis(group["features"][:], 0, -1), tiff)
    np.testing.assert_allclose(group["scale"][:], scales, rtol=1e-6)
    assert (np.abs(tiff * scales - expected) <= 0.51 * scales).all()


def test_a_folder_becomes_a_folder_and_what_is_there_is_not_made_again(
    weights, tmp_path, monkeypatch, capsys
):
    (tmp_path / "in" / "a").mkdir(parents=True)
    write_tiff(tmp_path / "in" / "a" / "one.tif", scene(16, 16, 1), NAMES)
    write_tiff(tmp_path / "in" / "two.tif", scene(16, 20, 2), NAMES)
    command = [
        "--mode=dense",
        f"--weights={weights.path}",
        f"--input={tmp_path / 'in'}",
        f"--output={tmp_path / 'out'}",
    ]
    run(monkeypatch, *command)
    made = sorted((tmp_path / "out").rglob("*.tif"))
    assert [str(path.relative_to(tmp_path / "out")) for path in made] == ["a/one.tif", "two.tif"]
    before = [path.stat().st_mtime_ns for path in made]
    run(monkeypatch, *command)
    assert capsys.readouterr().out.count("is there already") == 2
    assert [path.stat().st_mtime_ns for path in made] == before
    with pytest.raises(ValueError, match=r"one\.tif: exists, but not from these"):
        run(monkeypatch, *command, "--dtype=int8")


@pytest.mark.slow
def test_views_of_another_size_and_overlap(weights, tmp_path, monkeypatch):
    pixels = scene(24, 20)
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES)
    output = tmp_path / "map.zarr"
    command = ["--mode=dense", f"--weights={weights.path}", f"--input={source}", "--view=8"]
    run(monkeypatch, *command, f"--output={output}", "--overlap=4")
    found = np.moveaxis(zarr.open_group(output, mode="r")["features"][:], 0, -1)
    smaller = copy.copy(weights)
    smaller.view = 8
    np.testing.assert_allclose(found, by_hand(smaller, pixels, 1), atol=1e-5)
    other = tmp_path / "other.zarr"
    for wrong, message in (
        ("--overlap=3", r"--overlap: 3; expected a multiple of 4"),
        ("--overlap=8", r"from 0 to half of the view, 4"),
        ("--view=10", r"--view: 10; expected a multiple of 4"),
        ("--mode=pooled", r"--mode=pooled writes \.npz, \.parquet"),
        ("--encoder=s2", r"--encoder: is of --workdir"),
    ):
        with pytest.raises(ValueError, match=message):
            run(monkeypatch, *command, f"--output={other}", wrong)


# ---------------------------------------------------------------------------------------- pooled


def test_pooled_features_of_chips_are_those_by_hand(weights, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    chips = {f"{k}.tif": scene(VIEW, VIEW, k) for k in range(4)}
    chips["small.tif"] = scene(8, 12, 9)
    for name, pixels in chips.items():
        write_tiff(folder / name, pixels, NAMES)
    output = tmp_path / "table.npz"
    run(
        monkeypatch,
        f"--weights={weights.path}",
        f"--input={folder}",
        f"--output={output}",
        "--batch-size=3",
    )
    with np.load(output, allow_pickle=False) as table:
        assert table["name"].tolist() == sorted(chips)
        for name, row in zip(table["name"][:4], table["features"], strict=False):
            expected = weights.features(chips[name])["pooled"]
            np.testing.assert_allclose(row, expected, atol=1e-5)
        assert (table["crs"] == "EPSG:32633").all() and np.isnat(table["time"]).all()
        np.testing.assert_allclose(table["lonlat"][0], [15.0011, 52.3499], atol=1e-3)
        assert (table["valid_fraction"] == 1).all() and np.isfinite(table["features"]).all()
        assert json.loads(str(table["facts"]))["sensor"] == S2.id


def test_an_interrupted_table_goes_on_to_the_same_bytes(weights, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(5):
        write_tiff(folder / f"{k}.tif", scene(VIEW, VIEW, k), NAMES)
    encode, calls = TrainedEncoder.pooled, []

    def interrupted(self, pixels, valid):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, pixels, valid)

    command = [f"--weights={weights.path}", f"--input={folder}", "--batch-size=2"]
    with monkeypatch.context() as during:
        during.setattr(TrainedEncoder, "pooled", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, *command, f"--output={tmp_path / 'a.npz'}")
        run(monkeypatch, *command, f"--output={tmp_path / 'a.npz'}")
    assert calls == [2, 2, 2, 2]  # the third batch again, and nothing else
    run(monkeypatch, *command, f"--output={tmp_path / 'b.npz'}")
    a, b = (np.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert a.files == b.files and all(a[name].tobytes() == b[name].tobytes() for name in a.files)


@pytest.mark.slow
def test_larger_files_need_a_word(weights, tmp_path, monkeypatch):
    pixels = scene(20, 40)
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES)

    def row(*more: str) -> np.ndarray:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        command = [f"--weights={weights.path}", f"--input={source}", f"--output={output}"]
        run(monkeypatch, *command, *more)
        return np.load(output)["features"][0]

    with pytest.raises(ValueError, match=r"20 x 40 pixels.*16 x 16.*--larger=centre"):
        row()
    centre = weights.features(pixels[:, 2:18, 12:28])["pooled"]
    np.testing.assert_allclose(row("--larger=centre"), centre, atol=1e-5)
    views = [pixels[:, r : r + 16, c : c + 16] for r in (0, 4) for c in (0, 16, 24)]
    mean = np.mean([weights.features(view)["pooled"] for view in views], axis=0)
    np.testing.assert_allclose(row("--larger=tiles", "--batch-size=4"), mean, atol=1e-5)


def test_parquet_is_geoparquet_or_a_clear_error(weights, tmp_path, monkeypatch):
    source = write_tiff(tmp_path / "chip.tif", scene(VIEW, VIEW), NAMES)
    output = tmp_path / "table.parquet"
    command = [f"--weights={weights.path}", f"--input={source}", f"--output={output}"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(ValueError, match=r"pip install 'eo_jax\[parquet\]'"):
            run(monkeypatch, *command)
    parquet = pytest.importorskip("pyarrow.parquet")
    run(monkeypatch, *command)
    table = parquet.read_table(output)
    expected = weights.features(scene(VIEW, VIEW))["pooled"]
    np.testing.assert_allclose(table["features"][0].as_py(), expected, atol=1e-5)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    point = np.frombuffer(table["geometry"][0].as_py(), "<f8", offset=5)
    np.testing.assert_allclose(point, [15.0011, 52.3499], atol=1e-3)


# -------------------------------------------------------------------------- what a file may not be


def _swapped() -> list[str]:
    return [NAMES[1], NAMES[0], *NAMES[2:]]


@pytest.mark.parametrize(
    ("names", "profile", "message"),
    [
        ([], {}, r"tells which band is which.*unnamed.*B1, B2, B3.*--bands-are-in-order"),
        (_swapped(), {}, r"another order.*band 1 is 'B2', expected B1.*--reorder"),
        ([*NAMES[:11], "VV"], {}, r"band descriptions are B1, .*VV, but .* has B1, "),
        (NAMES[:11], {}, r"11 bands \(B1, .*the weights are for 12 \(B1, "),
        (NAMES, {"nodata": 7}, r"no-data value is 7.*here the sensor is that of the weights"),
    ],
)
def test_what_does_not_fit_the_contract_is_refused(
    weights, tmp_path, monkeypatch, names, profile, message
):
    bands = len(names) or 12
    source = write_tiff(tmp_path / "scene.tif", scene(16, 16)[:bands], names, **profile)
    command = [
        f"--weights={weights.path}",
        f"--input={source}",
        f"--output={tmp_path / 'table.npz'}",
    ]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        run(monkeypatch, *command)
    assert not (tmp_path / "table.npz").exists()


def test_pixels_of_another_kind_are_refused(weights, tmp_path, monkeypatch):
    for pixels, message in (
        (scene(16, 16).astype(np.float32) / 10_000, "reflectance as fractions"),
        (scene(16, 16).astype(np.int16), "pixels are int16, expected uint16 or float32"),
    ):
        source = write_tiff(tmp_path / "scene.tif", pixels, NAMES)
        with pytest.raises(ValueError, match=message):
            run(
                monkeypatch,
                f"--weights={weights.path}",
                f"--input={source}",
                f"--output={tmp_path / 'table.npz'}",
            )


def test_declared_and_reordered_bands_give_the_same_features(weights, tmp_path, monkeypatch):
    pixels = scene(16, 16)
    order = [1, 0, *range(2, 12)]
    named = write_tiff(tmp_path / "named.tif", pixels[order], [NAMES[k] for k in order])
    plain = write_tiff(tmp_path / "plain.tif", pixels)
    as_float = write_tiff(tmp_path / "float.tif", pixels.astype(np.float32), NAMES)
    for source, more in ((named, "--reorder"), (plain, "--bands-are-in-order"), (as_float, "")):
        output = source.with_suffix(".npz")
        command = [f"--weights={weights.path}", f"--input={source}", f"--output={output}"]
        run(monkeypatch, *command, *filter(None, [more]))
        expected = weights.features(pixels)["pooled"]
        np.testing.assert_allclose(np.load(output)["features"][0], expected, atol=1e-5)


def test_a_mask_beside_a_file_is_honoured(tmp_path, monkeypatch):
    masked = Weights(tmp_path / "w.safetensors", get_sensor("sentinel2_l2a_bigearthnet"), 4, 16)
    pixels = scene(16, 16)
    source = write_tiff(tmp_path / "scene.tif", pixels, NAMES)
    mask = np.full((16, 16), 255, np.uint8)
    mask[:8] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(source, "r+") as dataset:
        dataset.write_mask(mask)
    assert Path(f"{source}.msk").exists()
    output = tmp_path / "table.npz"
    run(monkeypatch, f"--weights={masked.path}", f"--input={source}", f"--output={output}")
    seen = np.where(mask == 0, 0, pixels).astype(np.uint16)
    found = np.load(output)
    np.testing.assert_allclose(found["features"][0], masked.features(seen)["pooled"], atol=1e-5)
    assert found["valid_fraction"][0] == 0.5


def test_a_changed_mask_is_another_input(tmp_path):
    sensor = get_sensor("sentinel2_l2a_bigearthnet")
    trained = from_file(Weights(tmp_path / "w.safetensors", sensor, 4, 16).path)
    source, facts = write_tiff(tmp_path / "scene.tif", scene(16, 16), NAMES), []
    for masked_rows in (8, 4):
        mask = np.full((16, 16), 255, np.uint8)
        mask[:masked_rows] = 0
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(source, "r+") as dataset:
            dataset.write_mask(mask)
        with Images(source, sensor, Declared()).open(source.name) as image:
            files = [(image.name, image.sha256, image.sidecars)]
            facts.append(
                (
                    image.sha256,
                    pooled.facts_of(trained, "refuse", 1, files)["files_sha256"],
                    dense.facts_of(image, trained, 0, 1)["sidecars"],
                )
            )
    same, *different = [before == after for before, after in zip(*facts, strict=True)]
    assert same and not any(different)


def test_every_image_of_an_archive_becomes_a_map(weights, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("a.tif", "b.tif"):
            archive.write(write_tiff(tmp_path / name, scene(16, 16), NAMES), name)
    command = ["--mode=dense", f"--weights={weights.path}", f"--input={tmp_path / 'in.zip'}"]
    run(monkeypatch, *command, f"--output={tmp_path / 'maps'}")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["a.tif", "b.tif"]
    with pytest.raises(ValueError, match=r"one\.tif; --mode=dense writes a folder of maps"):
        run(monkeypatch, *command, f"--output={tmp_path / 'one.tif'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=x.npz", "--dtype=int8"], "--dtype: is of --mode=dense"),
        (["--output=x.npz", "--overlap=0"], "--overlap: is of --mode=dense"),
        (["--output=x.tif", "--mode=dense", "--larger=centre"], "--larger: is of --mode=pooled"),
        (["--output=x.parquet", "--format=npz"], r"x\.parquet with --format=npz"),
        (["--output=maps", "--mode=dense", "--format=npz"], "maps with --format=npz"),
        (["--output=in/x.npz"], "is inside of --input"),
        (["--output=x.npz", "--view=6"], "--view: 6; expected a multiple of 4"),
        (["--output=x.npz", "--view=2000000"], "--view: 2000000; expected .* up to 2048"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    weights, tmp_path, monkeypatch, options, message
):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, f"--weights={weights.path}", "--input=in", *options)


def test_a_header_that_claims_any_width_is_refused(weights, tmp_path, monkeypatch):
    profile = {"driver": "GTiff", "count": 12, "height": 16, "width": 10_000_000, "tiled": True}
    profile |= {"dtype": "uint16", "sparse_ok": True}
    with rasterio.open(tmp_path / "wide.tif", "w", **profile):
        pass
    command = [f"--weights={weights.path}", f"--input={tmp_path / 'wide.tif'}", "--mode=dense"]
    with pytest.raises(ValueError, match=r"wide\.tif: 16 x 10000000 pixels.*cut it"):
        run(monkeypatch, *command, f"--output={tmp_path / 'm.tif'}", "--bands-are-in-order")


def test_weights_without_a_contract_are_refused(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "w.safetensors")
    source = write_tiff(tmp_path / "scene.tif", scene(16, 16), NAMES)
    with pytest.raises(ValueError, match="has no contract"):
        run(
            monkeypatch,
            f"--weights={tmp_path / 'w.safetensors'}",
            f"--input={source}",
            f"--output={tmp_path / 'x.npz'}",
        )


# ------------------------------------------------------------------------------- a run; real files


@pytest.mark.slow
def test_a_run_gives_what_its_export_gives(tiny_run, tmp_path, monkeypatch):
    from eo_jax import export

    exported = tmp_path / "encoder.safetensors"
    monkeypatch.setattr(sys, "argv", ["export", f"--workdir={tiny_run}", f"--output={exported}"])
    export.main()
    pixels = np.random.default_rng(0).integers(0, 5000, (202, 16, 16)).astype(np.int16)
    source = write_tiff(tmp_path / "tile.tif", pixels, [band.name for band in ENMAP.bands])
    rows = []
    for origin in (f"--weights={exported}", f"--workdir={tiny_run}"):
        output = tmp_path / f"{len(rows)}.npz"
        run(monkeypatch, origin, f"--input={source}", f"--output={output}")
        rows.append(np.load(output)["features"])
    np.testing.assert_array_equal(*rows)
    assert np.isfinite(rows[0]).all()


def test_an_enmap_tile_of_all_224_bands(sample_data, tmp_path, monkeypatch):
    source = sample_data / "enmap/potsdam_l2a_tiles/images/enmap_potsdam_tile_128_0.tif"
    weights = Weights(tmp_path / "enmap.safetensors", ENMAP, 8, 16)
    output = tmp_path / "map.tif"
    run(
        monkeypatch,
        "--mode=dense",
        f"--weights={weights.path}",
        f"--input={source}",
        f"--output={output}",
        "--overlap=0",
    )
    with rasterio.open(source) as dataset:
        pixels = dataset.read([band.number for band in ENMAP.bands])
        corner = dataset.transform @ (0, 0)
    with rasterio.open(output) as dataset:
        found = np.moveaxis(dataset.read(), 0, -1)
        assert dataset.transform @ (0, 0) == corner and dataset.res == (240, 240)
    for row, column in ((0, 0), (0, 16), (16, 16)):
        view = pixels[:, row : row + 16, column : column + 16]
        part = found[row // 8 : row // 8 + 2, column // 8 : column // 8 + 2]
        np.testing.assert_allclose(part, weights.features(view)["dense"], atol=1e-5)


def test_a_sentinel_2_chip(sample_data, tmp_path, monkeypatch):
    source = sample_data / "sentinel/terramesh/S2L2A/282D_485L_3_3.tif"
    weights = Weights(tmp_path / "s2.safetensors", get_sensor("sentinel2_l2a_offset"), 16, 224)
    output = tmp_path / "chip.npz"
    command = [f"--weights={weights.path}", f"--input={source}", f"--output={output}"]
    with pytest.raises(ValueError, match="--bands-are-in-order"):
        run(monkeypatch, *command)
    run(monkeypatch, *command, "--bands-are-in-order")
    with rasterio.open(source) as dataset:
        pixels = dataset.read()
    found = np.load(output)["features"][0]
    np.testing.assert_allclose(found, weights.features(pixels)["pooled"], atol=1e-5)


# ------------------------------------------------------------------------------------ big, killed


def start(*arguments: object, **more) -> subprocess.Popen:
    program = (
        "import resource, runpy, sys\n"
        "try:\n"
        "    runpy.run_module('eo_jax.embed', run_name='__main__')\n"
        "finally:\n"
        "    print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


@pytest.mark.slow
def test_a_large_scene_in_little_memory_and_killed_on_the_way(tmp_path):
    size, view, patch = 5000, 224, 16
    weights = Weights(tmp_path / "w.safetensors", S2, patch, view, size="tiny")
    source = tmp_path / "scene.tif"
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "count": 12, "height": size, "width": size, "dtype": "uint16"}
    with rasterio.open(
        source, "w", **profile, crs="EPSG:32633", transform=AFFINE, interleave="pixel"
    ) as dataset:
        for row in range(0, size, 250):
            part = rng.integers(1, 3000, (12, 250, size)).astype(np.uint16)
            window = rasterio.windows.Window(0, row, size, 250)
            dataset.write(part, window=window)
        for number, name in enumerate(NAMES, 1):
            dataset.set_band_description(number, name)
    command = [
        "--mode=dense",
        f"--weights={weights.path}",
        f"--input={source}",
        "--device=cpu",
        "--batch-size=8",
    ]
    whole, resumed = tmp_path / "whole.tif", tmp_path / "resumed.tif"
    process = start(*command, f"--output={whole}")
    text, _ = process.communicate()
    assert process.returncode == 0
    peak = int(re.search(r"PEAK (\d+)", text)[1])
    print(f"peak memory {peak / 1e6:.0f} MB")
    assert peak < 2e9

    with rasterio.open(source) as pixels, rasterio.open(whole) as features:
        assert features.shape == (313, 313) and features.count == 192
        side, step = view // patch, view // patch - 3
        inside = side - 2 * 3  # tokens that one view alone has
        for k, m in ((0, 0), (7, 20), (13, 5)):
            top, left = k * step, m * step
            window = rasterio.windows.Window(left * patch, top * patch, view, view)
            by_hand = weights.features(pixels.read(window=window))["dense"]
            window = rasterio.windows.Window(left + 3, top + 3, inside, inside)
            found = np.moveaxis(features.read(window=window), 0, -1)
            np.testing.assert_allclose(found, by_hand[3:-3, 3:-3], atol=1e-5)
        # the seam between two views: the mean by the weights of the rule
        top, left = 7 * step, 20 * step
        both = [
            weights.features(
                pixels.read(window=rasterio.windows.Window(c * patch, top * patch, view, view))
            )["dense"]
            for c in (left, left + step)
        ]
        weight = np.array([3, 2, 1])[:, None] / 4
        seam = both[0][3:-3, -3:] * weight + both[1][3:-3, :3] * (1 - weight)
        window = rasterio.windows.Window(left + step, top + 3, 3, inside)
        found = np.moveaxis(features.read(window=window), 0, -1)
        np.testing.assert_allclose(found, seam, atol=1e-5)
        assert features.xy(100, 7) == pixels.transform @ (7.5 * patch, 100.5 * patch)

    killed = 0
    for after in (2, 9):
        process = start(*command, f"--output={resumed}", stderr=subprocess.DEVNULL)
        progress = Path(f"{resumed}.partial") / "progress.json"
        while process.poll() is None and not _has_done(progress, after):
            time.sleep(0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed == 2 and _has_done(progress, 9)
    process = start(*command, f"--output={resumed}")
    process.communicate()
    assert process.returncode == 0
    assert resumed.read_bytes() == whole.read_bytes()
    assert not progress.parent.exists()


def _has_done(progress: Path, units: int) -> bool:
    return progress.exists() and json.loads(progress.read_text())["done"] >= units
