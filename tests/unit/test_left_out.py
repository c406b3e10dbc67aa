"""What the listing of an archive leaves out, and what becomes of it in the store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin

from data_prep.__main__ import main
from data_prep.formats import left_out
from eo_jax.data import open_store
from tests import layouts, tiny_archives

SIZE = 16


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One full image, one with edges, one that is too small."""
    folder = tmp_path / "images"
    for name, height, width in (("full", 32, 32), ("edges", 20, 40), ("small", 15, 40)):
        cube = np.random.default_rng(height).integers(1, 9000, (2, height, width), np.int16)
        tiny_archives.write(folder / f"{name}.tif", cube)
    table = {
        "id": "two",
        "title": "Two bands",
        "gsd_m": 30,
        "dtype": "int16",
        "scale": 0.0001,
        "units": "reflectance",
        "nodata": -32768,
        "source": "made for this test",
        "bands": {
            "name": ["red", "NIR"],
            "number": [1, 2],
            "centre_nm": [650, 850],
            "fwhm_nm": [30, 30],
        },
    }
    (tmp_path / "two.json").write_text(json.dumps(table))
    return folder


def convert(images: Path, *options: str) -> int:
    """Converts to the folder "store" beside them."""
    root = images.parent
    command = ["convert", "geotiff", "--input", str(images), "--output", str(root / "store")]
    return main([*command, "--sensor", str(root / "two.json"), "--workers", "1", *options])


def patches(images: Path, *options: str) -> int:
    return convert(images, "--patch-size", str(SIZE), *options)


def test_small_images_and_edges_are_counted(images: Path, capsys: pytest.CaptureFixture) -> None:
    assert patches(images) == 0
    store = open_store(images.parent / "store")
    assert len(store) == 4 + 2
    assert store.manifest["left_out"] == {"smaller than a patch of 16 x 16 (--patch-size)": 1}
    lost = (20 * 40 - 2 * SIZE**2) / (32 * 32 + 20 * 40)
    edges = f"edges without a full patch of 16 x 16 are left out, {lost:.2%} of the pixels"
    assert store.manifest["found"] == {f"right and bottom {edges}": 1}
    said = capsys.readouterr().out
    assert (
        "skipped 1: smaller than a patch" in said and f"found   1: right and bottom {edges}" in said
    )


def test_a_single_small_image_is_an_error(images: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("full", "edges"):
        (images / f"{name}.tif").unlink()
    assert patches(images) == 1
    error = capsys.readouterr().err
    assert "small.tif: 15 x 40 pixels" in error and "smaller --patch-size" in error


@pytest.mark.parametrize("options", [(), ("--patch-size", "16"), ("--val-fraction", "0.4")])
def test_a_damaged_header(
    images: Path, capsys: pytest.CaptureFixture, options: tuple[str, ...]
) -> None:
    (images / "edges.tif").write_bytes((images / "edges.tif").read_bytes()[:100])
    assert convert(images, *options) == 1
    error = capsys.readouterr().err
    assert "edges.tif" in error and "--skip-bad" in error
    assert convert(images, *options, "--skip-bad", "--output", str(images.parent / "other")) == 0
    rejects = (images.parent / "other" / "rejects.txt").read_text()
    assert rejects.startswith("edges") and rejects.count("\n") == 1
    assert str(images) not in rejects  # the same bytes on every machine
    assert open_store(images.parent / "other").manifest["rejects"]["samples"] == 1


def test_an_image_without_its_label_map(images: Path, capsys: pytest.CaptureFixture) -> None:
    for name, height in (("full", 32), ("edges", 20)):
        label = np.ones((1, height, 32 if name == "full" else 40), np.uint8)
        tiny_archives.write(images / "classes" / f"{name}.tif", label, nodata=0)
    assert convert(images, "--labels", "classes") == 1
    error = capsys.readouterr().err
    assert "small.tif" in error and "--skip-bad" in error
    assert convert(images, "--labels", "classes", "--skip-bad") == 0
    assert len(open_store(images.parent / "store")) == 2


def test_locations_without_data_do_not_end_a_split_by_blocks(images: Path) -> None:
    (images / "small.tif").unlink()
    for number in range(3):
        moved = from_origin(400000 + 90000 * number, 5800000, 30, 30)
        cube = np.full((2, 16, 16), 100 if number else -32768, np.int16)
        tiny_archives.write(images / f"{number}.tif", cube, transform=moved)
    assert convert(images, "--split", "blocks:20", "--val-fraction", "0.4") == 0
    assert open_store(images.parent / "store").manifest["left_out"] == {"no data in any pixel": 1}


def test_longitudes_from_0_to_360(images: Path) -> None:
    (images / "small.tif").unlink()
    cube = np.ones((2, 16, 16), np.int16)
    place = {"crs": "EPSG:4326", "transform": from_origin(350, 10, 0.25, 0.25)}
    tiny_archives.write(images / "west.tif", cube, **place)
    assert convert(images) == 0
    store = open_store(images.parent / "store")
    (west,) = (sample for sample in map(store.__getitem__, range(3)) if sample.id == "west")
    assert west.lonlat == pytest.approx((-8, 8))


def test_links_are_followed_where_they_are_trusted(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    outside = tmp_path / "outside"
    (images / "full.tif").rename(outside.parent / "full.tif")
    (images / "full.tif").symlink_to(outside.parent / "full.tif")
    outside.mkdir()
    (images / "edges.tif").rename(outside / "edges.tif")
    (images / "more").symlink_to(outside)
    assert convert(images) == 1
    assert "--follow-links" in capsys.readouterr().err
    assert convert(images, "--follow-links") == 0
    assert list(open_store(tmp_path / "store").index["id"]) == ["full", "more/edges", "small"]
    (outside / "again").symlink_to(images)
    assert convert(images, "--follow-links", "--output", str(tmp_path / "other")) == 1
    assert "a second time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("s3://a/b", "aws s3 sync STORE s3://a/b"),
        ("gs://a/b", "gcloud storage rsync"),
        ("https://a/b", "any tool"),
    ],
)
@pytest.mark.parametrize(
    "command", ["convert geotiff --input .", "merge a b", "subset a", "simulate"]
)
def test_a_url_as_output(command: str, url: str, way: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--output", url])
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{url} is a URL" in last and way in last


TILING = ["desis", "emit", "enmap-l2a", "landsat-c2", "oscd", "prisma", "sentinel2-safe"]


@pytest.mark.parametrize("name", [*TILING, "geonrw", "l7irish", "l8biome"])
def test_every_reader_leaves_out_what_is_too_small(name: str, tmp_path: Path) -> None:
    options = layouts.write(name, tmp_path)
    options = {**options, "patch_size": 5000}
    with left_out.collect() as found:
        assert layouts.make_reader(name, tmp_path, **options).items() == []
    assert found.reasons.total() == len(found.errors) > 0
    assert list(found.reasons) == ["smaller than a patch of 5000 x 5000 (--patch-size)"]


@pytest.mark.parametrize("name", TILING)
def test_every_reader_leaves_out_a_damaged_first_image(name: str, tmp_path: Path) -> None:
    options = layouts.write(name, tmp_path)
    options = {**options, "patch_size": 8}
    items = layouts.make_reader(name, tmp_path, **options).items()
    first = tmp_path / items[0].files[0].name
    first.write_bytes(first.read_bytes()[:50])
    with left_out.collect() as found:
        rest = layouts.make_reader(name, tmp_path, **options).items()
    assert len(found.bad) == 1 and first.name in str(found.bad[0][1])
    assert set(rest) < set(items)
