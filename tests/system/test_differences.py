"""Band differences that the device sums up: the pixels are those of the host, to the bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from run_results import hashes, numbers
from tiny_store import write_store, write_tiny_store
from traced import assert_same

from eo_jax import train
from eo_jax.augment import differences as on_device
from eo_jax.augment.views import Config as Augment
from eo_jax.augment.views import CropSet, Normalisation, Recipe, make_recipe
from eo_jax.data import open_store
from eo_jax.data.differences import with_pixels
from eo_jax.data.pipeline import Config, Pipeline, SourceConfig
from eo_jax.data.store import record
from eo_jax.data.store.reader import FORMATS
from eo_jax.schema import Batch, Sample
from eo_jax.sensors import ENMAP

BANDS, SIDE, CROP = 202, 16, 11
RUNS = {"array-record": 202, "zarr": 29}  # bands after which differences start again


def pixels(dtype: str, number: int) -> np.ndarray:
    """All values of a dtype, so that differences wrap; sample 0 is without data."""
    ends = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.iinfo("int8")
    low, high, rng = ends.min, ends.max, np.random.default_rng(number)
    values = rng.integers(low, high, (BANDS, SIDE, SIDE), endpoint=True).astype(dtype)
    return values if number else np.zeros_like(values)


def samples(*dtypes: str) -> list[Sample]:
    return [
        Sample(pixels(dtypes[n % len(dtypes)], n), "enmap", f"id{n}", f"g{n}") for n in range(6)
    ]


def pipeline(path: Path, undo: str, rows: Any = None, **source: Any) -> Pipeline:
    config = {"enmap": SourceConfig(str(path), "enmap", **source)}
    return Pipeline(Config(config, 4, CROP, undo_differences=undo), 3, rows)


def summed(batch: Batch) -> Batch:
    """The batch with pixels, summed up inside jit."""
    return {
        source: {
            **{name: array for name, array in fields.items() if "difference" not in name},
            "pixels": np.asarray(jax.jit(pixels_of)(fields)),
        }
        for source, fields in batch.items()
    }


def pixels_of(fields: dict) -> jax.Array:
    # Positions are int64, which stay on the host.
    held = {name: array for name, array in fields.items() if name != "position"}
    return on_device.with_pixels(held)["pixels"]


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
@pytest.mark.parametrize("format", RUNS)
def test_sums_on_the_device_are_the_pixels_to_the_bit(tmp_path: Path, format: str, dtype: str):
    """In the second epoch, too, where "zarr" is read from a memory map."""
    path = write_store(tmp_path / "store", samples(dtype), format=format)
    host, device = pipeline(path, "host"), pipeline(path, "device")
    for n, batch in enumerate(device.batches(0, 4)):
        assert f"band_differences/{RUNS[format]}" in batch["enmap"]
        assert "pixels" not in batch["enmap"]
        assert_same(summed(batch), host.batch(n))
        assert_same({"enmap": with_pixels(batch["enmap"])}, host.batch(n))
    later = pipeline(path, "device", rows=[2, 3]).batch(3)["enmap"]  # resumed, in another process
    for name, array in later.items():
        np.testing.assert_array_equal(array, batch["enmap"][name][2:])


@pytest.mark.parametrize(
    ("format", "dtypes", "source"),
    [
        ("zarr-raw", ["int16"], {}),
        ("zarr", ["float32"], {}),
        ("array-record", ["int16", "uint8"], {}),
        ("zarr", ["int16"], {"bands": ("B6", "B8")}),
        ("array-record", ["int16"], {"cache": "memory"}),
        ("zarr", ["int16"], {"cache": "memory", "draw": "pixel"}),
    ],
    ids=["not stored", "floats", "two dtypes", "some bands", "from memory", "pixels"],
)
def test_batches_have_pixels_where_the_store_has_other_numbers(
    tmp_path: Path, format: str, dtypes: list[str], source: dict
):
    if "bands" in source:
        source = {"bands": tuple(ENMAP.bands[k].name for k in (3, 5))}
    path = write_store(tmp_path / "store", samples(*dtypes), format=format)
    host, device = pipeline(path, "host", **source), pipeline(path, "device", **source)
    for n in range(2):
        assert_same(device.batch(n), host.batch(n))


def test_without_a_run_batches_have_pixels(tmp_path: Path):
    path = write_store(tmp_path / "store", samples("int16"), format="zarr")
    config = Config({"enmap": SourceConfig(str(path), "enmap")}, 4, CROP)
    assert "pixels" in Pipeline(config, 3).batch(0)["enmap"]


def shown_by(recipe: Recipe) -> Callable[[dict], tuple[dict, dict]]:
    def views(fields: dict) -> tuple[dict, dict]:
        batch = {"enmap": {name: array for name, array in fields.items() if name != "position"}}
        return recipe.train(batch, jax.random.key(0)), recipe.evaluate(batch)

    return views


@pytest.fixture
def recipe() -> Recipe:
    numbers = Normalisation(np.array(ENMAP.mean), np.array(ENMAP.std), "")
    return make_recipe(Augment(crops={"global": CropSet(size=8)}), {"enmap": (ENMAP, numbers)})


def test_every_view_takes_differences(tmp_path: Path, recipe: Recipe):
    path = write_store(tmp_path / "store", samples("int16"), format="zarr")
    shapes = [
        jax.eval_shape(shown_by(recipe), pipeline(path, undo).empty_batch("all")["enmap"])
        for undo in ("host", "device")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_views_are_those_of_the_pixels(tmp_path: Path, recipe: Recipe):
    path = write_store(tmp_path / "store", samples("int16"), format="zarr")
    views = jax.jit(shown_by(recipe))
    shown = [views(pipeline(path, undo).batch(0)["enmap"]) for undo in ("host", "device")]
    jax.tree.map(np.testing.assert_array_equal, *shown)


@pytest.mark.parametrize(
    "names",
    [[], ["time"], ["pixels", "band_differences/2"]],
    ids=["none", "time", "both"],
)
def test_a_batch_without_its_pixels_or_with_two_of_them_is_an_error(names: list[str]):
    with pytest.raises(ValueError, match="expected either 'pixels' or one of"):
        on_device.with_pixels({name: jnp.zeros((1, 1, 2, 1, 1), int) for name in names})


@pytest.mark.parametrize("format", FORMATS)
def test_floats_have_no_differences(tmp_path: Path, format: str):
    store = open_store(write_store(tmp_path / "store", samples("float32"), format=format))
    assert store.difference_bands(0) == 0
    with pytest.raises(ValueError, match="float32 has no differences to read into float32"):
        store.read_differences_into(0, np.empty((BANDS, SIDE, SIDE), np.float32))


def test_a_record_of_plain_integers_gives_differences(tmp_path: Path, monkeypatch):
    """Any filter of a record is right, and a batch has differences of all its samples."""
    monkeypatch.setattr(record, "difference", lambda array: (np.ascontiguousarray(array), "none"))
    path = write_store(tmp_path / "store", samples("uint16"))
    host, device = pipeline(path, "host"), pipeline(path, "device")
    assert_same(summed(device.batch(1)), host.batch(1))


@pytest.mark.slow
def test_a_run_that_sums_on_the_device_resumes_bit_for_bit(tmp_path: Path):
    store = write_tiny_store(tmp_path / "store", format="zarr")
    config = tiny_run.config_of(store, **{"run.steps": 4, "run.save_every": 2}) | {"evals": {}}
    whole = tmp_path / "whole"
    config["data"]["undo_differences"] = "device"
    assert train.train(config, whole) == 0
    for undo in ("device", "host"):
        shutil.copytree(whole, tmp_path / undo)
        shutil.rmtree(tmp_path / undo / "checkpoints" / "4")
        config["data"]["undo_differences"] = undo
        assert train.train(config, tmp_path / undo) == 0
    assert hashes(tmp_path / "device") == hashes(whole)
    losses = [[line["loss"] for line in numbers(tmp_path / run)] for run in ("whole", "host")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_reading_records_takes_no_fresh_pages(tmp_path: Path):
    """They would take more time than everything else: some 2,000 pages per record of 3 MB."""
    noise = [
        Sample(
            np.random.default_rng(n).integers(0, 9**4, (202, 128, 64)).astype("int16"),
            "enmap",
            f"id{n}",
            "g",
        )
        for n in range(3)
    ]
    path = write_store(tmp_path / "store", noise)
    code = (
        "import resource, sys, numpy as np\n"
        "from eo_jax.data import open_store\n"
        "store, out = open_store(sys.argv[1]), np.empty((202, 128, 64), np.int16)\n"
        "def read():\n"
        "    for i in range(30): store.read_into(i % 3, out)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "print(-read() + read())\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, check=True
    )
    assert int(done.stdout) < 30 * 200
