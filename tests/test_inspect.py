"""`inspect` prints what is in a store and draws two pictures that show it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from PIL import Image

from data_prep import inspect
from data_prep.__main__ import main
from eo_jax.data import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    tiny_archives.spectral_earth(folder / "archive", "landuse")
    options = ("--labels", "landuse", "--val", "0000007/*", "--workers", "1")
    assert main(["convert", "spectral-earth", "--input", str(folder / "archive"), "--output", str(folder / "store"), *options]) == 0
    return folder / "store"


def test_tables_say_what_is_in_it(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(store), "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    opened = open_store(store)
    share = opened.index["nodata_share"].mean()
    assert share > 0
    pixels = opened.manifest["labels"]["landuse"]["values"]["3"]
    for words in (
        "7 (train 5, val 2)",
        "5 (3 with 1 date, 2 with 2 dates)",
        "202 x 32 x 32 (7)",
        f"{share:.3%} of all values",
        "label landuse (uint8)",
        f"{pixels:,}",
        "202, 418 to 2445 nm",
        "SpectralEarth (reader spectral-earth, 14 files)",
        "unknown",  # dates
    ):
        assert words in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quicklook.png", "spectra.png"]


def test_regions_are_means_of_their_bands(store: Path) -> None:
    moments = open_store(store).manifest["statistics"]["enmap"]
    inside = np.arange(202) < 10
    bands, mean, _, low, _, _ = inspect._region_cells(moments, inside, 1e-4)
    assert (bands, mean) == ("10", f"{np.mean(moments['mean'][:10]) * 1e-4:.3f}")
    assert low == f"{min(moments['min'][:10]) * 1e-4:.3f}"


def test_band_without_data_is_no_obstacle(store: Path) -> None:
    moments = {name: [None, 2.0] for name in ("mean", "std", "min", "max")} | {"nodata_share": [1.0, 0.0]}
    assert inspect._region_cells(moments, np.array([True, True]), 1.0)[1:] == ["2.000"] * 4 + ["50.00%"]
    assert inspect._region_cells(moments, np.array([True, False]), 1.0)[1:] == ["-"] * 4 + ["100.00%"]


def test_pictures_are_the_same_every_time(store: Path) -> None:
    opened = open_store(store)
    assert inspect.quicklook(opened, 4) == inspect.quicklook(opened, 4)
    assert inspect.spectra(opened) == inspect.spectra(opened)


def test_quicklook_shows_as_many_as_asked(store: Path) -> None:
    opened = open_store(store)
    heights = [Image.open(io.BytesIO(inspect.quicklook(opened, count))).height for count in (1, 4, 5, 100)]
    assert heights[0] == heights[1] < heights[2] == heights[3]  # seven samples fit into two rows of four


def test_spectrum_breaks_over_the_removed_windows(store: Path) -> None:
    picture = np.array(Image.open(io.BytesIO(inspect.spectra(open_store(store)))).convert("RGB")).astype(int)
    blue = (picture[..., 2] - picture[..., 0] > 100).any(0)
    runs = np.flatnonzero(np.diff(np.flatnonzero(blue)) > 20)
    assert len(runs) == 2  # around 1400 and 1900 nm


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
