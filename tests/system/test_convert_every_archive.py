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


def assert_holds(store: Path, expected: list[Sample]) -> None:
    """The store has these samples, in order."""
    for found, sample in zip(open_store(store), expected, strict=True):
        assert_same(found, sample)


def turn(name: str, choices: tuple[str, ...]) -> str:
    """One of the choices, so that readers between them take all."""
    return choices[readers.names().index(name) % len(choices)]


TARS = ("tar", "tar.gz")
# Readers know nothing of stores, nor of tars: each comes with one of either, and slow with all.
EVERY = [
    pytest.param(name, suffix, store_format, marks=[] if quick else pytest.mark.slow)
    for name in readers.names()
    for suffix in TARS
    for store_format in FORMATS
    for quick in [suffix == turn(name, TARS) and store_format == turn(name, FORMATS)]
]


@pytest.mark.parametrize(("name", "suffix", "store_format"), EVERY)
def test_folder_and_tar_of_every_archive_give_its_samples_in_every_format(
    name: str, suffix: str, store_format: str, tmp_path: Path
) -> None:
    options = layouts.write(name, tmp_path / "archive")
    expected = layouts.read_all(name, tmp_path / "archive", **options)
    assert expected
    pack(name, tmp_path / "archive", tmp_path / "packed", suffix)
    for source in ("archive", "packed"):
        path = tmp_path / f"store of {source}"
        convert(name, tmp_path / source, path, options, "--format", store_format)
        assert verify(path) == []
        assert_holds(path, expected)
    store = open_store(tmp_path / "store of archive")
    assert all(store.sensor(sample.sensor).bands for sample in expected)
    archive = store.manifest["archive"]
    assert archive["reader"] == name
    assert archive["licence"]
    assert len(archive["files_sha256"]) == 64


def pack(name: str, folder: Path, packed: Path, suffix: str) -> None:
    """The archive as one download; that of SpectralEarth comes in parts."""
    packed.mkdir()
    path = packed / f"download.{suffix}"
    with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as tar:
        for member in sorted(folder.iterdir()):
            tar.add(member, member.name)
    if name == "spectral-earth":
        _cut_in_parts(path)


def _cut_in_parts(path: Path) -> None:
    data, size = path.read_bytes(), path.stat().st_size // 3 + 1
    for number, letter in enumerate("abc"):
        path.with_name(f"{path.name}.parta{letter}").write_bytes(
            data[number * size : (number + 1) * size]
        )
    path.unlink()
