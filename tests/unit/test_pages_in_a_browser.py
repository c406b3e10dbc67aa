"""Both pages fit a phone, a tablet and a desk, and show every picture, in a real browser."""

from __future__ import annotations

import browser
import numpy as np
import pytest
from test_report_page import make_patch, make_predictions, make_report
from tiny_store import write_store

from data_prep.inspection import page
from data_prep.statistics.moments import Contents
from eo_jax.data import open_store
from eo_jax.monitor.metric import Card, Metric
from eo_jax.report.page import render
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

LONG = "a_very_long_name_without_a_place_to_break_it_" * 3


def test_the_report_fits_its_window(tmp_path):
    names = {number: f"{LONG}{number}" for number in range(1, 20)}
    lines = [
        {"step": step, "loss": 1 / step, "rankme/s1": 2.0, "eval/knn/accuracy": step / 20}
        for step in range(1, 20)
    ]
    report = make_report(
        title=LONG,
        cards=[Card(LONG, "0.5 to 0.25", LONG, "worse", LONG), Card("b", "c", "d")],
        lines=lines,
        scores={"knn/accuracy": Metric("Overall accuracy " * 5)},
        patches=[make_patch(LONG)],
        predictions=make_predictions(names=names, title=LONG),
        config={LONG: {LONG: {LONG: LONG}}},
    )
    browser.check(render(report), tmp_path)


def test_the_page_of_a_store_fits_its_window(tmp_path):
    sensor, rng, contents = get_sensor("sentinel2_l1c"), np.random.default_rng(0), Contents()
    samples = [
        Sample(
            pixels=rng.integers(1, 3000, (13, 16, 16)).astype(np.uint16),
            sensor=sensor.id,
            id=f"{LONG}{number}",
            group=f"{number}",
            time=1_600_000_000 + number * 10_000_000,
            lonlat=(13.0 + number, 52.0),
            labels={"cover": rng.integers(0, 20, (16, 16)).astype(np.uint8)},
        )
        for number in range(3)
    ]
    splits = ["train", "val", "test"]
    for sample, split in zip(samples, splits, strict=True):
        contents.add_sample(sample, split, sensor.missing(sample.pixels))
    about = contents.about()
    about["labels"]["cover"]["classes"] = {f"{n}": {"name": f"{LONG}{n}"} for n in range(1, 20)}
    about |= {
        "archive": {"name": LONG, "reader": "test", "options": {"deep": {LONG: {LONG: LONG}}}},
        "sensors": {sensor.id: sensor.row()},
        "splits": dict.fromkeys(splits, 1),
        "groups": 3,
    }
    store = write_store(tmp_path / "store", samples, splits, about=about)
    browser.check(page.render(open_store(store), 3), tmp_path)


def test_the_check_sees_what_is_too_wide_and_what_does_not_load(tmp_path):
    image = '<img alt="broken" src="data:image/png;base64,AAAA">'
    wide = '<div style="width:1000px">wide</div>'
    seen = browser.look(f"<!doctype html><body>{wide}{image}", tmp_path)
    assert [one["scroll"] > one["room"] for one in seen] == [True, True, False]
    assert [one["empty"] for one in seen] == [["broken"]] * 3


def test_without_a_browser_the_check_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(browser, "NAMES", ("no-such-browser",))
    with pytest.raises(pytest.skip.Exception, match="no-such-browser is installed"):
        browser.find()
