"""The sensor of a source that names none, or one that the table lacks, is that of its store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_store import change_manifest, write_store, write_tiny_store

from eo_jax.data.source import Source, SourceConfig, sensor_of
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, get_sensor

SUBSET = get_sensor("sentinel2_l2a").select(["B2", "B3", "B4", "B8"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of four bands, whose row is in no table."""
    pixels = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    sample = Sample(pixels=pixels, sensor=SUBSET.id, id="a", group="a")
    return write_store(
        tmp_path / "store", [sample], ["train"], {"sensors": {SUBSET.id: SUBSET.row()}}
    )


@pytest.mark.parametrize("sensor", ["", SUBSET.id])
def test_the_row_of_the_store_is_used(store: Path, sensor: str) -> None:
    config = SourceConfig(str(store), sensor)
    assert sensor_of(config) == SUBSET
    source = Source("s2", config, crop=8)
    assert source.locations == 1 and len(source.sensor.bands) == 4
    some = dataclasses.replace(config, bands=("B4",))
    assert [band.name for band in sensor_of(some).bands] == ["B4"]


def test_a_store_of_two_sensors_needs_a_name(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "store", locations=1)
    change_manifest(path, sensors={ENMAP.id: ENMAP.row(), SUBSET.id: SUBSET.row()})
    with pytest.raises(ValueError, match=rf"the store has the sensors enmap, {SUBSET.id}; name"):
        sensor_of(SourceConfig(str(path)))


def test_an_id_that_neither_has_is_a_misspelt_one(store: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'enmap'"):
        sensor_of(SourceConfig(str(store), "enmpa"))
