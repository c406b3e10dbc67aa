"""`stats` agrees with numpy over all pixels at once, for every dtype, over shards, sensors and
splits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_store import write_store

from data_prep import stats
from data_prep.__main__ import main
from data_prep.statistics import quantiles
from data_prep.statistics.moments import Contents
from eo_jax.data import open_store
from eo_jax.schema import Sample
from eo_jax.sensors import Band, Sensor

DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
LEVELS = (0.0, 0.01, 0.02, 0.25, 1 / 3, 0.5, 0.75, 0.98, 0.99, 1.0)


def sensor(dtype: str, bands: int = 3, nodata: float | None = None, name: str = "") -> Sensor:
    columns = tuple(Band(f"B{n}", n, None, None, kind="other") for n in range(1, bands + 1))
    listed = "int32" if dtype == "int64" else dtype  # no sensor has it, but a record may
    return Sensor(
        name or f"test_{dtype}", "Test", columns, None, listed, 1.0, "digital number", nodata
    )


def store_of(
    path: Path,
    sensors: Sequence[Sensor],
    cubes: Sequence[tuple[str, np.ndarray]],
    splits: Sequence[str] | None = None,
):
    """A store of (sensor id, pixels)."""
    samples = [
        Sample(pixels=cube, sensor=name, id=f"{n:03}", group=f"{n:03}")
        for n, (name, cube) in enumerate(cubes)
    ]
    return open_store(
        write_store(path, samples, splits, {"sensors": {one.id: one.row() for one in sensors}})
    )


def random_cube(dtype: str, seed: int, shape: tuple[int, int, int] = (3, 9, 11)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.normal(size=shape) * 10 ** rng.uniform(-3, 3, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    wide, narrow = (
        rng.integers(limits.min, limits.max, shape, dtype, endpoint=True),
        rng.integers(0, 100, shape),
    )
    return np.where(rng.random(shape) < 0.3, wide, narrow).astype(dtype)


def assert_is_numpys(
    about: dict, columns: Sequence[np.ndarray], levels: Sequence[float], rel: float = 1e-6
) -> None:
    """`columns` are the valid values of each band."""
    for band, values in enumerate(columns):
        values = values.astype(np.float64)
        assert about["count"][band] == len(values)
        expected = {
            "mean": values.mean(),
            "std": values.std(),
            "min": values.min(),
            "max": values.max(),
        }
        for name, value in expected.items():
            assert about[name][band] == pytest.approx(
                value, rel=rel, abs=1e-9 * np.abs(values).max()
            ), name
        for level, found in zip(levels, about["quantiles"], strict=True):
            assert found[band] == pytest.approx(
                np.quantile(values, level), rel=rel, abs=1e-12 * np.abs(values).max()
            ), level


# ------------------------------------------------------------------ against numpy


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    cubes = [random_cube(dtype, seed) for seed in range(7)]
    store = store_of(
        tmp_path / "store", [sensor(dtype)], [(f"test_{dtype}", cube) for cube in cubes]
    )
    about = stats.measure(store, "train", LEVELS)["sensors"][f"test_{dtype}"]
    assert_is_numpys(
        about, [np.concatenate([cube[band].ravel() for cube in cubes]) for band in range(3)], LEVELS
    )
    assert about["dtype"] == dtype
    assert about["nodata_share"] == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float16", "float32"])
def test_no_data_does_not_count(dtype: str, tmp_path: Path) -> None:
    cubes = [random_cube(dtype, seed) for seed in range(3)]
    for cube in cubes:
        cube[0, :3] = 7
        cube[2] = 7
        if np.dtype(dtype).kind == "f":
            cube[1, 0, :3] = (np.nan, np.inf, -np.inf)
    store = store_of(
        tmp_path / "store", [sensor(dtype, nodata=7)], [(f"test_{dtype}", cube) for cube in cubes]
    )
    about = stats.measure(store, "train", LEVELS)["sensors"][f"test_{dtype}"]
    valid = [
        np.concatenate([cube[band][(cube[band] != 7) & np.isfinite(cube[band])] for cube in cubes])
        for band in range(3)
    ]
    assert len(valid[0]) < 3 * 99
    assert_is_numpys(about, valid[:2], LEVELS)
    assert about["nodata_share"][2] == 1
    for name in ("mean", "std", "min", "max"):
        assert about[name][2] is None
    assert [column[2] for column in about["quantiles"]] == [None] * len(LEVELS)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_selection_of_any_values(data: st.DataObject, dtype: str) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else {}
    values = data.draw(
        hnp.arrays(dtype, st.integers(1, 40), elements=hnp.from_dtype(np.dtype(dtype), **elements))
    )
    levels = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))
    cut = data.draw(st.integers(0, len(values)))
    selection = quantiles.Selection(np.dtype(dtype), 1, levels)
    for number in range(quantiles.passes(np.dtype(dtype))):
        found: quantiles.PrefixCounts = {}
        for part in (values[:cut], values[cut:]):
            quantiles.merge(found, quantiles.count(0, part, number, selection.prefixes[0]))
        selection.narrow(number, found)
    with np.errstate(all="ignore"):
        exact = (
            np.quantile(values.astype(np.float64) / 4, levels) * 4
        )  # a quarter, so that no difference overflows
    np.testing.assert_allclose(
        [column[0] for column in selection.result()],
        exact,
        rtol=1e-6,
        atol=1e-9 * np.abs(values / 4).max(),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_are_in_the_order_of_the_values(dtype: str) -> None:
    values = np.unique(random_cube(dtype, 0))
    keys = quantiles.to_sortable(values)
    assert (np.diff(keys.astype(object)) > 0).all()
    assert [quantiles.from_sortable(int(key), values.dtype) for key in keys] == values.tolist()


# ------------------------------------------------------------------ what else there is


def test_one_pixel(tmp_path: Path) -> None:
    store = store_of(
        tmp_path / "store",
        [sensor("float32", 1)],
        [("test_float32", np.full((1, 1, 1), -2.5, np.float32))],
    )
    about = stats.measure(store, "train", LEVELS)["sensors"]["test_float32"]
    assert (about["count"], about["mean"], about["std"], about["min"], about["max"]) == (
        [1],
        [-2.5],
        [0],
        [-2.5],
        [-2.5],
    )
    assert about["quantiles"] == [[-2.5]] * len(LEVELS)


def test_constant_bands(tmp_path: Path) -> None:
    cube = np.stack([np.full((5, 5), value, np.int32) for value in (-70_000, 0, 2**31 - 1)])
    store = store_of(tmp_path / "store", [sensor("int32")], [("test_int32", cube)] * 3)
    about = stats.measure(store, "train", LEVELS)["sensors"]["test_int32"]
    assert about["quantiles"] == [[-70_000, 0, 2**31 - 1]] * len(LEVELS)
    assert about["std"] == [0, 0, 0]


def test_several_sensors_shapes_and_mixed_dtypes(tmp_path: Path) -> None:
    """One sensor takes one pass, the other two; the second mixes integers and fractions, like EnMAP
    tiles.
    """
    first, second = (
        [random_cube("uint8", n, (2, 3 + n, 4)) for n in range(6)],
        [random_cube("float32", 0), random_cube("int16", 1)],
    )
    sensors = [sensor("uint8", 2, name="eight"), sensor("float32", name="mixed")]
    cubes = [("mixed", second[0]), *(("eight", cube) for cube in first), ("mixed", second[1])]
    found = stats.measure(store_of(tmp_path / "store", sensors, cubes), "all", LEVELS)["sensors"]
    assert (found["eight"]["dtype"], found["mixed"]["dtype"]) == ("uint8", "float32")
    assert_is_numpys(
        found["eight"],
        [np.concatenate([cube[band].ravel() for cube in first]) for band in range(2)],
        LEVELS,
    )
    assert_is_numpys(
        found["mixed"],
        [
            np.concatenate([cube[band].ravel().astype(np.float32) for cube in second])
            for band in range(3)
        ],
        LEVELS,
    )


def test_splits(tmp_path: Path) -> None:
    cubes = [("test_int16", np.full((1, 2, 2), value, np.int16)) for value in (1, 2, 4)]
    store = store_of(tmp_path / "store", [sensor("int16", 1)], cubes, ["train", "val", "pixel"])
    means = {
        split: stats.measure(store, split, (0.5,))["sensors"]["test_int16"]["mean"][0]
        for split in ("train", "val", "all")
    }
    assert means == {
        "train": 2.5,
        "val": 3.0,
        "all": pytest.approx(7 / 3),
    }  # a scene split by pixel is in every split
    with pytest.raises(ValueError, match=r"split 'tset' is empty; the store has test, train, val"):
        stats.measure(store, "tset", (0.5,))


def test_moments_are_those_of_the_manifest(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    contents = Contents()
    for i, sample in enumerate(store):
        contents.add_sample(
            sample, str(store.index["split"][i]), store.sensor_of(i).missing(sample.pixels)
        )
    about = stats.measure(store, "train", (0.5,))["sensors"]["enmap"]
    for name, values in contents.about()["statistics"]["enmap"].items():
        assert about[name] == values


def test_workers_and_batches_change_nothing(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tiny_store)
    one = stats.measure(store, "all", LEVELS)
    assert stats.measure(store, "all", LEVELS, workers=2) == one
    monkeypatch.setattr(stats, "_BATCH_BYTES", 1)
    assert stats.measure(store, "all", LEVELS) == one


# ------------------------------------------------------------------ the command


def test_command(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # as in a log; numbers must not be truncated
    output = tmp_path / "stats.json"
    assert (
        main(
            [
                "stats",
                str(tiny_store),
                "--quantiles",
                "0.1",
                "0.9",
                "--workers",
                "1",
                "--output",
                str(output),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "enmap, split train, digital numbers (int16)" in said
    found = json.loads(output.read_text())
    assert found["content_sha256"] == open_store(tiny_store).content_hash
    assert found["levels"] == [0.1, 0.9]
    about = found["sensors"]["enmap"]
    assert len(about["bands"]) == len(about["mean"]) == len(about["quantiles"][1]) == 202
    assert f"{about['quantiles'][1][100]:.5g}" in said


def test_errors(tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["stats", str(tiny_store), "--split", "nowhere"]) == 1
    assert "split 'nowhere' is empty; the store has train, val" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["stats", str(tiny_store), "--quantiles", "1.5"])
    assert "expected 0 to 1" in capsys.readouterr().err
