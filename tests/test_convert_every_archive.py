"""Every reader, from a tiny archive in its published layout to a verified store, from folders and
tars and in every store format.
"""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path

import layouts
import numpy as np
import pytest

from data_prep import __main__, readers
from data_prep.verify import verify
from eo_jax.data import open_store
from eo_jax.data.store.reader import FORMATS
from eo_jax.schema import Sample


def convert(name: str, source: Path, store: Path, options: dict, *more: str) -> None:
    """Runs the command as a user would."""
    given = [word for key, value in options.items() for word in _words(key, value)]
    assert (
        __main__.main(
            [
                "convert",
                name,
                "--input",
                str(source),
                "--output",
                str(store),
                "--workers",
                "1",
                "--shard-mb",
                "0.1",
                *given,
                *more,
            ]
        )
        == 0
    )


def _words(key: str, value: object) -> list[str]:
    name = f"--{key.replace('_', '-')}"
    if value is True:
        return [name]
    return [name, *map(str, value)] if isinstance(value, tuple) else [name, str(value)]


def assert_same(found: Sample, expected: Sample) -> None:
    """Asserts that every field and every array is equal, bit for bit."""
    for field in dataclasses.fields(Sample):
        one, two = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(two, dict):
            assert one.keys() == two.keys()
            for key in two:
                _assert_same_array(one[key], np.asarray(two[key]))
        elif isinstance(two, np.ndarray):
            _assert_same_array(one, two)
        else:
            assert one == two, field.name


def _assert_same_array(one: np.ndarray, two: np.ndarray) -> None:
    assert (one.dtype, one.shape) == (two.dtype, two.shape)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", readers.names())
def test_convert_then_verify(name: str, tmp_path: Path) -> None:
    options = layouts.write(name, tmp_path / "archive")
    expected = layouts.read_all(name, tmp_path / "archive", **options)
    assert expected
    convert(name, tmp_path / "archive", tmp_path / "store", options)
    assert verify(tmp_path / "store") == []
    store = open_store(tmp_path / "store")
    assert len(store) == len(expected)
    for found, sample in zip(store, expected, strict=True):
        assert_same(found, sample)
        assert store.sensor(sample.sensor).bands
    archive = store.manifest["archive"]
    assert archive["reader"] == name
    assert archive["licence"]
    assert len(archive["files_sha256"]) == 64


@pytest.mark.parametrize("name", readers.names())
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_tar_gives_the_samples_of_the_folder(name: str, suffix: str, tmp_path: Path) -> None:
    options = layouts.write(name, tmp_path / "archive")
    packed = tmp_path / "packed" / f"download.{suffix}"
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz" if suffix == "tar.gz" else "w") as tar:
        for path in sorted((tmp_path / "archive").iterdir()):
            tar.add(path, path.name)
    if name == "spectral-earth":  # as downloaded, in parts
        _cut_in_parts(packed)
    expected = layouts.read_all(name, tmp_path / "archive", **options)
    convert(name, tmp_path / "packed", tmp_path / "store", options)
    store = open_store(tmp_path / "store")
    assert len(store) == len(expected)
    for found, sample in zip(store, expected, strict=True):
        assert_same(found, sample)


def _cut_in_parts(path: Path) -> None:
    data, size = path.read_bytes(), path.stat().st_size // 3 + 1
    for number, letter in enumerate("abc"):
        path.with_name(f"{path.name}.parta{letter}").write_bytes(
            data[number * size : (number + 1) * size]
        )
    path.unlink()


@pytest.mark.parametrize("name", readers.names())
@pytest.mark.parametrize("store_format", FORMATS[1:])
def test_zarr_stores_hold_the_same_samples(name: str, store_format: str, tmp_path: Path) -> None:
    options = layouts.write(name, tmp_path / "archive")
    convert(name, tmp_path / "archive", tmp_path / "plain", options)
    convert(name, tmp_path / "archive", tmp_path / "zarr", options, "--format", store_format)
    assert verify(tmp_path / "zarr") == []
    for found, sample in zip(
        open_store(tmp_path / "zarr"), open_store(tmp_path / "plain"), strict=True
    ):
        assert_same(found, sample)
