"""Some of a sensor's bands: only these are read, and only these exist from there on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_objectives
from tiny_store import write_tiny_store

from eo_jax import run
from eo_jax.data import open_store
from eo_jax.data.pipeline import Config, Pipeline, in_order
from eo_jax.data.source import Source, SourceConfig, sensor_of
from eo_jax.data.store.reader import FORMATS
from eo_jax.experiment import make_experiment, make_normalisation, make_recipe
from eo_jax.sensors import ENMAP, Sensor, get_sensor

CHOSEN = ("B3", "B50", "B51", "B224")
NAMES = [band.name for band in ENMAP.bands]
NUMBERS = [NAMES.index(name) for name in CHOSEN]
S2 = get_sensor("sentinel2_l2a")

# ------------------------------------------------------------------------------------------- sensor


def test_a_sensor_of_some_bands_has_what_the_whole_one_says_of_them():
    some = S2.select(("B2", "B3", "B4", "B12"))
    numbers = [1, 2, 3, 11]
    assert some.bands == tuple(S2.bands[i] for i in numbers)
    assert (some.mean, some.std) == (
        tuple(S2.mean[i] for i in numbers),
        tuple(S2.std[i] for i in numbers),
    )
    assert (some.true_colour, some.false_colour) == ((2, 1, 0), None)  # B8 is not there
    assert (some.dtype, some.scale, some.nodata, some.units) == (
        S2.dtype,
        S2.scale,
        S2.nodata,
        S2.units,
    )
    assert some.title.endswith("12 bands, 4 of them (B2 to B12)")


def test_ids_tell_selections_apart_and_rows_survive_json():
    selections = [S2.select(names) for names in (("B2",), ("B3",), ("B2", "B3"))]
    assert len({S2.id, *(some.id for some in selections)}) == 4
    assert S2.select(("B2",)) == selections[0]
    with pytest.raises(ValueError, match="expected at least one band"):
        S2.select(())
    for some in (*selections, ENMAP.select(NAMES[:150])):
        assert Sensor.from_row(json.loads(json.dumps(some.row()))) == some


def test_bands_without_statistics_keep_none():
    some = get_sensor("landsat8_oli_sr").select(("SR_B2", "SR_B4"))
    assert (some.mean, some.std) == ((), ())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("B2", "B88"),
            r"config\.data\.sources\.\*\.bands: no band 'B88' in Sentinel-2 L2A .*there are B1, .* "
            r"Did you mean 'B8'\?",
        ),
        (("B4", "B2"), r"bands: B4, B2: not in the order of Sentinel-2 L2A .*expected B2, B4"),
        (("B2", "B2"), "bands: B2, B2: not in the order .*or not all different; expected B2"),
        ("B2", r"bands: 'B2'; expected names of bands, as in \('B2', 'B3'\)"),
    ],
)
def test_other_bands_are_refused(names, message: str):
    with pytest.raises(ValueError, match=message):
        sensor_of(SourceConfig("stores/s2", "sentinel2_l2a", bands=names))


# --------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bands")
    return {format: write_tiny_store(folder / format, size=12, format=format) for format in FORMATS}


@pytest.mark.parametrize("format", FORMATS)
def test_batches_are_those_of_all_bands_without_the_others(stores: dict[str, Path], format: str):
    whole, some = (
        Pipeline(
            Config(
                {
                    "enmap": SourceConfig(
                        str(stores[format]), "enmap", label="landuse", dates=2, bands=bands
                    )
                },
                4,
                8,
            ),
            0,
        )
        for bands in ((), CHOSEN)
    )
    for n in range(3):
        expected, found = whole.batch(n)["enmap"], some.batch(n)["enmap"]
        np.testing.assert_array_equal(
            found["pixels"], expected["pixels"][:, :, NUMBERS], strict=True
        )
        np.testing.assert_array_equal(found["label"], expected["label"], strict=True)
    sources = [each.sources["enmap"] for each in (whole, some)]
    singles = [
        Source("enmap", dataclasses.replace(source.config, dates=1), 8) for source in sources
    ]
    for expected, found in zip(
        *(in_order(single, 4, "landuse") for single in singles), strict=True
    ):
        np.testing.assert_array_equal(
            found["enmap"]["pixels"], expected["enmap"]["pixels"][:, :, NUMBERS], strict=True
        )
        np.testing.assert_array_equal(
            found["enmap"]["label"], expected["enmap"]["label"], strict=True
        )


def test_zarr_reads_only_chunks_of_these_bands(
    stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """Damage elsewhere goes unnoticed."""
    source = Source("enmap", SourceConfig(str(stores["zarr"]), "enmap", bands=("B1",)), 12)
    asked = []
    inner = type(source.store).pixels
    monkeypatch.setattr(
        type(source.store),
        "pixels",
        lambda store, i, bands, *window: asked.append(bands) or inner(store, i, bands, *window),
    )
    monkeypatch.setattr(type(source.store), "read_into", None)
    batch = source.new_batch(np.empty(source.pixels_shape(1), source.dtype))
    source.decode_into(batch, 0, 0, source.draw(0, np.random.default_rng(0)))
    assert asked == [[0]]


def test_statistics_of_the_store_are_those_of_the_bands_that_are_read(stores: dict[str, Path]):
    stated = open_store(stores["zarr"]).manifest["statistics"]["enmap"]
    found = Source("enmap", SourceConfig(str(stores["zarr"]), "enmap", bands=CHOSEN), 8).statistics
    assert {name: found[name].tolist() for name in found} == {
        name: [stated[name][i] for i in NUMBERS] for name in ("mean", "std")
    }


def test_statistics_of_a_band_table_are_found_by_its_id(stores: dict[str, Path], tmp_path: Path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(ENMAP.row()))
    assert Source("enmap", SourceConfig(str(stores["zarr"]), str(table)), 8).statistics[
        "mean"
    ].shape == (202,)


# ----------------------------------------------------------------------------------- everybody else


@pytest.mark.parametrize("statistics", ["published", "store"])
def test_encoder_normalisation_and_fingerprint_see_these_bands_alone(
    stores: dict[str, Path], statistics: str
):
    config = tiny_objectives.config_of("barlow_twins")
    config.data.sources.s2.update(
        {"store": str(stores["zarr"]), "sensor": "enmap", "bands": CHOSEN}
    )
    config.data.crop, config.augment.statistics = 12, statistics
    experiment = make_experiment(config)
    opened = Pipeline(experiment.data, 0)
    numbers = make_normalisation(experiment, opened)
    fingerprint = run.data_fingerprint(opened.sources["s2"], numbers["s2"])
    assert experiment.encoders["s2"].sensor == opened.sources["s2"].sensor == ENMAP.select(CHOSEN)
    assert numbers["s2"].mean.shape == numbers["s2"].std.shape == (4,)
    assert (
        Sensor.from_row(fingerprint["sensor"]) == ENMAP.select(CHOSEN)
        and len(fingerprint["normalisation"]["mean"]) == 4
    )
    views = jax.jit(make_recipe(experiment, numbers).evaluate)(
        {"s2": {"pixels": jnp.asarray(opened.batch(0)["s2"]["pixels"])}}
    )
    assert views["s2/global"].shape[-1] == 4
    if statistics == "published":
        assert numbers["s2"].mean.tolist() == [ENMAP.mean[i] for i in NUMBERS]


def test_sources_of_other_bands_do_not_share_a_stem():
    config = tiny_objectives.config_of("semi_supervised")
    config.data.sources.support.bands = ("B2", "B3")
    with pytest.raises(
        ValueError,
        match=r"config\.model\.stems\.support: sensor 'sentinel2_l2a-2of12-\w+' cannot use the "
        r"stem of source 's2'",
    ):
        make_experiment(config)
