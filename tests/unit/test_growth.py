"""The benchmark of growing work: its fit, its stores, and what it says of a superlinear figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import opening
from benchmarks.growth import __main__ as command
from benchmarks.growth import stores
from benchmarks.growth.axes import AXES, Axis
from benchmarks.growth.fit import growth
from benchmarks.growth.steps import sensor_of
from eo_jax.sensors import ENMAP, Sensor

SIZES = (10, 100, 1000)


def test_the_exponent_of_a_power_law_is_found():
    found = growth([1, 3, 10, 40], [5.0 * work**1.5 for work in (1, 3, 10, 40)])
    assert (found.exponent, found.largest, found.last) == pytest.approx((1.5, 1.5, 1.5))


def test_a_fixed_part_hides_in_the_exponent_but_not_in_the_last_slope():
    found = growth(SIZES, [1e4 + work**2 for work in SIZES])
    assert found.exponent < 1.1 < 1.6 < found.last == found.largest


@pytest.mark.parametrize(
    ("work", "cost", "message"),
    [
        ([1], [1.0], "expected two of each"),
        ([1, 2, 3], [1.0, 2.0], "3 sizes and 2 costs"),
        ([2, 2], [1.0, 2.0], "ascending"),
        ([1, 2], [0.0, 2.0], "expected positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(work, cost, message):
    with pytest.raises(ValueError, match=message):
        growth(work, cost)


def quadratic(_: Path, size: int) -> dict[str, float]:
    return {"linear_s": size / 1e3, "quadratic_s": size**2 / 1e3}


@pytest.mark.parametrize(("causes", "code"), [({"quadratic_s": "pairs"}, 0), ({}, 3)])
def test_a_superlinear_figure_needs_a_cause(causes, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "in_new_process", lambda measure, *given: measure(*given))
    monkeypatch.setitem(AXES, "toy", Axis("toys", SIZES, quadratic, causes=causes))
    arguments = ["--only", "toy", "--most", "100", "--json", str(tmp_path / "growth.json")]
    assert command.main(arguments) == code
    axis = json.loads((tmp_path / "growth.json").read_text())["axes"]["toy"]
    assert (axis["unit"], axis["work"]) == ("toys", [10, 100])
    assert "cause" not in axis["figures"]["linear_s"]
    assert axis["figures"]["quadratic_s"]["exponent"] == pytest.approx(2)
    assert axis["figures"]["quadratic_s"]["cause"] == causes.get("quadratic_s", "")
    assert (
        f"quadratic_s: {'pairs' if causes else 'superlinear, CAUSE NOT'}" in capsys.readouterr().out
    )


def test_unknown_axes_are_named(capsys):
    assert command.main(["--only", "toys"]) == 1
    assert "--only 'toys'" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["array-record", "zarr"])
def test_stores_of_repeated_shards_are_those_of_the_other_benchmark(format, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "PER_SHARD", 10)
    monkeypatch.setattr(stores, "PER_SHARD", 10)
    stores.write_store(tmp_path / "streamed", format, 50)
    opening.write_store(tmp_path / "whole", format, 50)
    files = [file for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    assert len(files) > 6
    for file in files:
        streamed = tmp_path / "streamed" / file.relative_to(tmp_path / "whole")
        assert streamed.read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize("bands", [12, 202, 400])
def test_sensors_of_any_number_of_bands(bands):
    sensor = sensor_of(bands)
    assert len(sensor.bands) == bands == len(sensor.mean)
    assert Sensor.from_row(json.loads(json.dumps(sensor.row()))) == sensor
    assert sensor.mean == ENMAP.mean or bands != len(ENMAP.bands)
