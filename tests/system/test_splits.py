"""Splits by spatial block and by pixel: no location in two splits, no label of another split in a
batch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from tiny_store import write_store

from data_prep.__main__ import main
from data_prep.conversion import spatial_blocks, splits
from eo_jax.data import open_store, pipeline
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

LOCATIONS = 24


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Locations 4 km apart from west to east, two dates each, in a SpectralEarth tree."""
    for location in range(LOCATIONS):
        transform = rasterio.Affine(30, 0, 300_000 + 4_000 * location, 0, -30, 5_800_000)
        for date in range(2):
            tiny_archives.write(
                tmp_path / "archive" / "enmap" / f"{location:07d}" / f"{date:05d}.tif",
                tiny_archives.pixels(location + 1),
                transform=transform,
            )
    return tmp_path / "archive"


def convert(archive: Path, store: Path, *more: str) -> int:
    return main(
        [
            "convert",
            "spectral-earth",
            "--input",
            str(archive),
            "--output",
            str(store),
            "--workers",
            "1",
            *more,
        ]
    )


def test_blocks_keep_neighbours_together(archive: Path, tmp_path: Path) -> None:
    assert (
        convert(
            archive,
            tmp_path / "store",
            "--split",
            "blocks:20",
            "--val-fraction",
            "0.3",
            "--test-fraction",
            "0.2",
        )
        == 0
    )
    store = open_store(tmp_path / "store")
    side: dict[str, set[str]] = {}
    for lonlat, split in zip(store.index["lonlat"], store.index["split"], strict=True):
        side.setdefault(spatial_blocks.block_of(*lonlat, 20), set()).add(str(split))
    assert len(side) >= 4
    assert all(len(found) == 1 for found in side.values())
    assert set(store.manifest["splits"]) == {"train", "val", "test"}
    assert store.manifest["archive"]["options"]["split"] == "blocks:20"


def test_blocks_override_the_lists_of_the_archive(archive: Path, tmp_path: Path) -> None:
    names = sorted(
        path.relative_to(archive / "enmap").as_posix() for path in archive.rglob("*.tif")
    )
    (archive / "splits").mkdir()
    (archive / "splits" / "train.txt").write_text("\n".join(names[::2]))
    (archive / "splits" / "test.txt").write_text(
        "\n".join(names[1::2])
    )  # two dates of each location in two splits
    assert (
        convert(archive, tmp_path / "store", "--split", "blocks:20", "--val-fraction", "0.3") == 0
    )
    index = open_store(tmp_path / "store").index
    for group in set(index["group"].tolist()):
        assert len(set(index["split"][index["group"] == group].tolist())) == 1


def test_blocks_too_large_for_the_splits(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        convert(
            archive,
            tmp_path / "store",
            "--split",
            "blocks:5000",
            "--val-fraction",
            "0.3",
            "--test-fraction",
            "0.2",
        )
        == 1
    )
    message = capsys.readouterr().err
    assert "nothing is left for" in message and "choose smaller blocks" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--split", "blocks:20"), "give --val-fraction or --test-fraction"),
        (("--val-fraction", "0.6", "--test-fraction", "0.6"), "leave nothing for training"),
        (
            ("--split", "blocks:20", "--val-fraction", "0.6", "--test-fraction", "0.6"),
            "leave nothing for training",
        ),
    ],
)
def test_invalid_fractions(
    archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: tuple[str, ...],
    words: str,
) -> None:
    assert convert(archive, tmp_path / "store", *options) == 1
    assert words in capsys.readouterr().err


def test_coordinates_are_read_once_for_a_resumed_run(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--split", "blocks:20", "--val-fraction", "0.3")
    with monkeypatch.context() as broken:
        broken.setattr(
            "data_prep.convert.convert", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert convert(archive, tmp_path / "store", *options) == 130
    monkeypatch.setattr(spatial_blocks, "locate", lambda *_: pytest.fail("located again"))
    assert convert(archive, tmp_path / "store", *options) == 0


@pytest.mark.parametrize("latitude", [0.0, 48.0, 70.0, -33.0])
def test_a_block_is_as_wide_as_it_is_high(latitude: float) -> None:
    longitudes = np.linspace(10, 12, 20_001)
    names = [spatial_blocks.block_of(float(longitude), latitude, 10) for longitude in longitudes]
    length_km = 2 * spatial_blocks.KM_PER_DEGREE * math.cos(math.radians(latitude))
    assert length_km / len(set(names)) == pytest.approx(10, rel=0.1)


def test_a_location_without_coordinates(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny_archives.write(
        tmp_path / "archive" / "enmap" / "0000001" / "00001.tif",
        tiny_archives.pixels(1),
        crs=None,
        transform=None,
    )
    assert (
        convert(
            tmp_path / "archive",
            tmp_path / "store",
            "--split",
            "blocks:20",
            "--val-fraction",
            "0.3",
        )
        == 1
    )
    message = capsys.readouterr().err
    assert "enmap/0000001/00001.tif" in message and "needs its coordinates" in message


@pytest.mark.parametrize("rule", ["blocks", "blocks:", "blocks:-3", "blocks:nan", "squares:3"])
def test_an_invalid_rule(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture, rule: str
) -> None:
    assert convert(archive, tmp_path / "store", "--split", rule) == 1
    assert "blocks:KM" in capsys.readouterr().err


def test_fractions_are_disjoint_and_move_no_other_name() -> None:
    names = [f"place {i}" for i in range(2000)]
    found = splits.assign_fractions(names, {"val": 0.1, "test": 0.2})
    counts = {
        split: sum(value == split for value in found.values()) for split in ("train", "val", "test")
    }
    assert counts["val"] == pytest.approx(200, abs=40) and counts["test"] == pytest.approx(
        400, abs=55
    )
    more = splits.assign_fractions(
        [*names, *(f"new {i}" for i in range(500))], {"val": 0.1, "test": 0.2}
    )
    assert all(more[name] == found[name] for name in names)


# ----------------------------------------------------------------- labels of the chosen split alone


def scene(side: int = 8) -> Sample:
    """A scene whose left half is for training and right half for testing; labels encode row and
    half.
    """
    label = np.arange(1, side * side + 1, dtype=np.int16).reshape(side, side)
    split = np.where(np.arange(side) < side // 2, 1, 3).astype(np.uint8) * np.ones(
        (side, 1), np.uint8
    )
    pixels = np.ones((len(ENMAP.bands), side, side), np.int16)
    return Sample(
        pixels, "enmap", "scene", "scene", labels={"landcover": label, "landcover.split": split}
    )


@pytest.mark.parametrize(("split", "columns"), [("train", slice(0, 4)), ("test", slice(4, 8))])
def test_only_labels_of_the_chosen_split_enter_a_batch(
    tmp_path: Path, split: str, columns: slice
) -> None:
    labels = {"landcover": {"dtype": "int16", "shape": "map", "values": None}}
    store = write_store(tmp_path / "store", [scene()], ["pixel"], {"labels": labels})
    sources = {
        "scene": pipeline.SourceConfig(
            store=str(store), sensor="enmap", split=split, label="landcover"
        )
    }
    batch = pipeline.Pipeline(pipeline.Config(sources=sources, batch_size=2, crop=8), seed=0).batch(
        0
    )["scene"]
    expected = np.zeros((8, 8), np.int16)
    expected[:, columns] = scene().labels["landcover"][:, columns]
    assert set(batch) == {"pixels", "time", "lonlat", "position", "label"}
    np.testing.assert_array_equal(batch["label"], np.broadcast_to(expected, (2, 1, 8, 8)))


def test_samples_of_other_splits_are_never_read(archive: Path, tmp_path: Path) -> None:
    convert(archive, tmp_path / "store", "--val-fraction", "0.3")
    store = open_store(tmp_path / "store")
    config = pipeline.SourceConfig(store=str(tmp_path / "store"), sensor="enmap", split="val")
    source = pipeline.Source("enmap", config, crop=8)
    assert set(store.index["split"][source.groups.members].tolist()) == {"val"}


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [scene()], ["train"], {"labels": {}})
    with pytest.raises(
        ValueError, match=r"no label 'crops' \(config.data.sources.scene.label\); there is none"
    ):
        pipeline.Source(
            "scene", pipeline.SourceConfig(store=str(store), sensor="enmap", label="crops"), crop=8
        )


def test_several_sensors_in_one_store(tmp_path: Path) -> None:
    """A source draws samples of its own sensor only, while groups span all sensors."""
    other = Sample(np.ones((224, 8, 8), np.int16), "enmap_l2a_224", "other", "scene")
    store = write_store(tmp_path / "store", [scene(), other], None, {"labels": {}})
    for sensor, bands in (("enmap", 202), ("enmap_l2a_224", 224)):
        sources = {"x": pipeline.SourceConfig(store=str(store), sensor=sensor)}
        assert (
            pipeline.Pipeline(pipeline.Config(sources=sources, batch_size=1, crop=8), seed=0)
            .batch(0)["x"]["pixels"]
            .shape[2]
            == bands
        )
    with pytest.raises(
        ValueError, match="no sample of sensor 'sentinel1_grd'; the store has enmap, enmap_l2a_224"
    ):
        pipeline.Source(
            "x", pipeline.SourceConfig(store=str(store), sensor="sentinel1_grd"), crop=8
        )


def test_a_users_band_table_is_a_sensor(tmp_path: Path) -> None:
    import dataclasses

    drone = dataclasses.replace(
        ENMAP,
        id="drone",
        bands=ENMAP.bands[:4],
        mean=(),
        std=(),
        true_colour=None,
        false_colour=None,
    )
    (tmp_path / "drone.json").write_text(json.dumps(drone.row()))
    sample = Sample(np.ones((4, 8, 8), np.int16), "drone", "a", "a")
    store = write_store(
        tmp_path / "store", [sample], None, {"labels": {}, "sensors": {"drone": drone.row()}}
    )
    source = pipeline.Source(
        "x", pipeline.SourceConfig(store=str(store), sensor=str(tmp_path / "drone.json")), crop=8
    )
    assert len(source.sensor.bands) == 4 and open_store(store).sensor("drone") == drone
