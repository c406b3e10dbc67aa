"""Single pixels as rows: which are drawn, in which order, windows at the border, and evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_objectives
from tiny_store import write_store
from traced import assert_same, joined, sample, traced

from eo_jax import sharding
from eo_jax.data import open_store
from eo_jax.data.pipeline import Config, Pipeline, in_order
from eo_jax.data.pixel_source import open_source
from eo_jax.data.source import SourceConfig
from eo_jax.evaluators.base import Context
from eo_jax.evaluators.labelled import training_part
from eo_jax.objectives.ops.losses import centre_label
from eo_jax.sensors import ENMAP

HEIGHT, WIDTH, SCENES = 9, 7, 2
SHAPES = {
    "where": {"dtype": "uint8", "shape": "map"},
    "where.split": {"dtype": "uint8", "shape": "map"},
    "kind": {"dtype": "int64", "shape": []},
}
RANDOM = np.random.default_rng(0)
CLASSES = RANDOM.integers(0, 4, (SCENES, HEIGHT, WIDTH)).astype(np.uint8)  # 0 is unlabelled
# 0 none, 1 train, 2 val, 3 test.
SPLITS = RANDOM.integers(0, 4, (SCENES, HEIGHT, WIDTH)).astype(np.uint8)


def scene(number: int) -> Any:
    labels = {"where": CLASSES[number], "where.split": SPLITS[number], "kind": np.array(1)}
    return sample(number, number, traced(number, HEIGHT, WIDTH), labels=labels)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes whose pixels say where they come from, with labels split by pixel."""
    scenes = [scene(number) for number in range(SCENES)]
    return write_store(
        tmp_path_factory.mktemp("pixels") / "store", scenes, ["pixel"] * SCENES, {"labels": SHAPES}
    )


def of_pixels(path: Path, **changes: Any) -> SourceConfig:
    return SourceConfig(
        str(path), **{"sensor": "enmap", "draw": "pixel", "cache": "memory", **changes}
    )


def pipeline(
    path: Path,
    rows: int = 8,
    crop: int = 1,
    seed: int = 0,
    of_process: Sequence[int] | None = None,
    **changes: Any,
) -> Pipeline:
    return Pipeline(Config({"scene": of_pixels(path, **changes)}, rows, crop), seed, of_process)


def centres(fields: dict[str, np.ndarray]) -> list[tuple[int, int, int]]:
    """(scene, row, column) of the pixel in the middle of each window."""
    middle = fields["pixels"].shape[-1] // 2
    numbers, rest = np.divmod(fields["pixels"][:, 0, 0, middle, middle].astype(int), 1000)
    return list(
        zip(numbers.tolist(), *(part.tolist() for part in np.divmod(rest, 20)), strict=True)
    )


def drawn(run: Pipeline, first: int, last: int) -> list[tuple[int, int, int]]:
    return [pixel for n in range(first, last) for pixel in centres(run.batch(n)["scene"])]


def labelled(split: int) -> list[tuple[int, int, int]]:
    return list(map(tuple, np.argwhere((CLASSES > 0) & (split == SPLITS)).tolist()))


# ------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize(("split", "code"), [("train", 1), ("val", 2), ("test", 3)])
def test_an_epoch_is_every_labelled_pixel_of_the_split_once(path: Path, split: str, code: int):
    expected = labelled(code)
    run = pipeline(path, rows=len(expected), label="where", split=split)
    epochs = [drawn(run, n, n + 1) for n in range(3)]
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_without_a_label_every_pixel_with_data_in_any_band_is_drawn(tmp_path: Path):
    pixels = traced(0, 5, 4)
    pixels[:, 1, 2] = ENMAP.nodata
    pixels[1:, 3, 3] = ENMAP.nodata
    run = pipeline(write_store(tmp_path / "store", [sample(0, pixels=pixels)]), rows=19)
    every = [(0, row, column) for row in range(5) for column in range(4)]
    assert sorted(drawn(run, 0, 1)) == [pixel for pixel in every if pixel != (0, 1, 2)]


def test_pixels_of_the_test_map_are_drawn_where_no_label_is_read(path: Path):
    assert (
        len(set(drawn(pipeline(path, rows=SCENES * HEIGHT * WIDTH), 0, 1)))
        == SCENES * HEIGHT * WIDTH
    )


@pytest.mark.parametrize("crop", [1, 3, 5, 7])
@pytest.mark.parametrize("label", ["", "where"])
def test_a_window_is_what_numpy_pads_by_reflection(path: Path, crop: int, label: str):
    fields = pipeline(path, rows=126, crop=crop, label=label).batch(0)["scene"]
    half = crop // 2
    padded = np.pad(
        np.stack([traced(i, HEIGHT, WIDTH) for i in range(SCENES)]),
        ((0, 0), (0, 0), (half, half), (half, half)),
        "reflect",
    )
    known = np.pad(
        np.where(SPLITS == 1, CLASSES, 0), ((0, 0), (half, half), (half, half)), "reflect"
    )
    for row, (number, top, left) in enumerate(centres(fields)):
        window = slice(top, top + crop), slice(left, left + crop)
        np.testing.assert_array_equal(fields["pixels"][row, 0], padded[number, :, *window])
        if label:
            np.testing.assert_array_equal(fields["label"][row, 0], known[number, *window])


def test_time_and_location_are_those_of_the_scene(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(0, time=1_650_000_000, lonlat=(13.5, 52.25))])
    fields = pipeline(path, rows=2).batch(3)["scene"]
    assert (
        fields["time"].tolist() == [[1_650_000_000]] * 2
        and fields["lonlat"].tolist() == [[13.5, 52.25]] * 2
    )
    assert fields["position"].tolist() == [6, 7]


@pytest.mark.parametrize(
    "changes", [{}, {"label": "where"}, {"label": "where", "labels_per_class": 2}]
)
def test_a_row_is_a_function_of_seed_batch_and_row(path: Path, changes: dict):
    whole = pipeline(path, crop=3, seed=5, **changes)
    halves = [
        pipeline(path, crop=3, seed=5, of_process=rows, **changes)
        for rows in (range(4), range(4, 8))
    ]
    for n, batch in enumerate(pipeline(path, crop=3, seed=5, **changes).batches(7, 10), start=7):
        assert_same(batch, whole.batch(n))
        assert_same(joined([half.batch(n) for half in halves]), batch)
    assert drawn(whole, 0, 2) != drawn(pipeline(path, crop=3, seed=6, **changes), 0, 2)


# --------------------------------------------------------------------------------------- few labels


def test_so_many_labels_of_each_class_are_drawn_by_the_seed(path: Path):
    chosen = {
        seed: set(drawn(pipeline(path, rows=6, seed=seed, label="where", labels_per_class=2), 0, 5))
        for seed in (0, 1, 2)
    }
    for pixels in chosen.values():
        assert pixels <= set(labelled(1))
        assert sorted(CLASSES[pixel] for pixel in pixels) == [1, 1, 2, 2, 3, 3]
    assert len(set(map(frozenset, chosen.values()))) > 1


@pytest.mark.parametrize("rows", [3, 6, 8])
def test_batches_have_the_classes_in_turn_and_epochs_differ(path: Path, rows: int):
    run = pipeline(path, rows=rows, label="where", labels_per_class=2)
    for n in range(6):
        counts = np.bincount(run.batch(n)["scene"]["label"].ravel(), minlength=4)[1:]
        assert counts.max() - counts.min() <= (rows % 3 > 0)
    pixels = drawn(run, 0, 24)
    epochs = {tuple(pixels[at : at + 6]) for at in range(0, len(pixels) - 5, 6)}
    assert all(len(set(epoch)) == 6 for epoch in epochs) and len(epochs) > 1


def test_labels_that_were_not_chosen_are_not_seen_in_windows_either(path: Path):
    run = pipeline(path, rows=12, crop=7, label="where", labels_per_class=1)
    fields = run.batch(0)["scene"]
    chosen = set(centres(fields))
    shown = {
        (value // 1000, *divmod(value % 1000, 20))
        for value in fields["pixels"][:, 0, 0][fields["label"][:, 0] > 0].tolist()
    }
    assert len(chosen) == 3 and shown == chosen


def test_a_class_with_too_few_labels_is_named(path: Path):
    with pytest.raises(
        ValueError,
        match=r"sources\.scene\.labels_per_class: 40, but class \d has \d+ labels in this split",
    ):
        pipeline(path, label="where", labels_per_class=40)


# ------------------------------------------------------------------------------------ other sources


def test_a_paired_source_shows_the_window_around_the_same_pixel_of_the_same_location(
    tmp_path: Path,
):
    # Scene 0 of the other store is location 1.
    scenes = [
        dataclasses.replace(scene(number), group=f"location{1 - number}")
        for number in range(SCENES)
    ]
    one = write_store(
        tmp_path / "one", [scene(number) for number in range(SCENES)], about={"labels": SHAPES}
    )
    other = write_store(tmp_path / "other", scenes, about={"labels": SHAPES})
    sources = {
        "hsi": of_pixels(one, label="where"),
        "lidar": of_pixels(other, paired_with="hsi", label="where"),
    }
    batch = Pipeline(Config(sources, 50, 3), 0).batch(0)
    leader, paired = (centres(batch[name]) for name in ("hsi", "lidar"))
    assert paired == [(1 - number, row, column) for number, row, column in leader]
    assert {number for number, *_ in leader} == {0, 1}
    labels = batch["lidar"]["label"][:, 0, 1, 1].tolist()
    assert [CLASSES[pixel] * (SPLITS[pixel] == 1) for pixel in paired] == labels


def test_pixels_and_patches_are_read_side_by_side(path: Path):
    sources = {"pixels": of_pixels(path), "patches": SourceConfig(str(path), "enmap")}
    batch = Pipeline(Config(sources, 4, 3), 0).batch(0)
    assert_same(
        {"patches": batch["patches"]},
        Pipeline(Config({"patches": sources["patches"]}, 4, 3), 0).batch(0),
    )
    assert_same(
        {"pixels": batch["pixels"]},
        Pipeline(Config({"pixels": sources["pixels"]}, 4, 3), 0).batch(0),
    )


# --------------------------------------------------------------------------------------- evaluation


def context(path: Path, crop: int = 3, **changes: Any) -> Context:
    """The context of evaluators, without what does not concern data."""
    data = Config({"scene": of_pixels(path, **changes)}, 8, crop)
    names = "mean std objective train_views evaluate_views rows place replicated"
    return Context(
        source="scene",
        same_encoder=("scene",),
        sensor=ENMAP,
        patch=1,
        data=data,
        seed=0,
        whole=lambda rows: rows,
        poll=lambda: None,
        announce=sharding.raise_error,
        **dict.fromkeys(names.split()),
    )


@pytest.mark.parametrize(
    "changes", [{}, {"label": "where"}, {"label": "where", "labels_per_class": 1}]
)
def test_evaluation_sees_every_labelled_pixel_of_a_split_once_with_the_class_of_its_centre(
    path: Path, changes: dict
):
    batches = [batch["scene"] for batch in context(path, **changes).batches("test", "where")]
    assert all(
        batch["pixels"].shape == (8, 1, 202, 3, 3) and batch["label"].shape == (8,)
        for batch in batches
    )
    real = np.concatenate([batch["position"] for batch in batches]) >= 0
    pixels = [pixel for batch in batches for pixel in centres(batch)]
    labels = np.concatenate([batch["label"] for batch in batches])
    assert [pixel for pixel, counts in zip(pixels, real, strict=True) if counts] == labelled(3)
    assert labels.tolist() == [CLASSES[pixel] for pixel in pixels]


def test_evaluation_of_a_split_that_no_pixel_is_in_is_refused_before_a_run(
    path: Path, tmp_path: Path
):
    context(path).check("knn", ("train", "test"), "where")
    with pytest.raises(
        ValueError,
        match=r"config\.evals\.knn: .*split 'tset' is empty; the store has test, train, val\.",
    ):
        context(path).check("knn", ("train", "tset"), "where")
    trained = np.where(SPLITS == 3, 1, SPLITS)  # no scene has a pixel of the test split
    scenes = [
        dataclasses.replace(
            scene(number), labels={"where": CLASSES[number], "where.split": trained[number]}
        )
        for number in range(SCENES)
    ]
    store = write_store(tmp_path / "untested", scenes, ["pixel"] * SCENES, {"labels": SHAPES})
    with pytest.raises(
        ValueError, match=r"config\.evals\.knn: .*no pixel of split 'test' has label 'where'"
    ):
        context(store).check("knn", ("train", "test"), "where")


def test_evaluation_without_a_label_sees_what_may_be_drawn(path: Path):
    def count(source):
        return sum((batch["scene"]["position"] >= 0).sum() for batch in in_order(source, 8))

    assert count(open_source("scene", of_pixels(path), 1, 0)) == SCENES * HEIGHT * WIDTH
    assert count(
        open_source("scene", of_pixels(path, label="where", labels_per_class=1), 1, 0)
    ) == len(labelled(1))
    assert all(
        "label" not in batch["scene"]
        for batch in in_order(open_source("scene", of_pixels(path, label="where"), 1, 0), 8)
    )


def test_classifiers_are_fitted_on_the_pixels_that_training_sees(path: Path):
    batches = [batch["scene"] for batch in context(path).batches("train", "where")]
    count = len(labelled(1))
    pixels = np.array([pixel for batch in batches for pixel in centres(batch)])[:count]
    classes = np.concatenate([batch["label"] for batch in batches])[:count]
    run = SimpleNamespace(seed=3)
    x, y = training_part(run, pixels, classes, 2, "config.evals.knn.labels_per_class")
    assert set(map(tuple, x.tolist())) == set(
        drawn(pipeline(path, rows=6, seed=3, label="where", labels_per_class=2), 0, 1)
    )
    assert y.tolist() == [CLASSES[tuple(pixel)] for pixel in x]
    assert training_part(run, pixels, classes, 0, "")[0] is pixels
    with pytest.raises(ValueError, match=r"config\.evals\.knn\.labels_per_class: 50, but class"):
        training_part(run, pixels, classes, 50, "config.evals.knn.labels_per_class")


def test_a_window_has_the_label_of_its_centre():
    label = np.arange(2 * 5 * 5).reshape(2, 5, 5)
    assert centre_label(jnp.asarray(label)).tolist() == label[:, 2, 2].tolist()
    assert centre_label(jnp.asarray(label[:, 0, 0])).tolist() == label[:, 0, 0].tolist()


def test_classification_of_a_window_learns_the_class_of_its_centre():
    experiment = tiny_objectives.experiment_of("supervised")
    views = tiny_objectives.views_of(experiment)
    label = views["s2/global/label"]
    around = jnp.zeros((*label.shape, 3, 3), label.dtype).at[..., 1, 1].set(label)
    (loss, _), (windows, _) = (
        tiny_objectives.loss_of(experiment, views | {"s2/global/label": shown})[2][0]
        for shown in (label, around)
    )
    assert loss == windows


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw": "pixels"}, r"sources\.\*\.draw: 'pixels'; expected 'patch' or 'pixel'"),
        ({"cache": "none"}, r"sources\.\*\.cache: 'none' with draw='pixel'; expected 'memory'"),
        ({"cache": "disk"}, r"sources\.\*\.cache: 'disk'; expected 'none' or 'memory'"),
        ({"dates": 2}, r"sources\.\*\.dates: 2 with draw='pixel'; expected 1"),
        (
            {"labels_per_class": 5},
            r"labels_per_class: 5 with draw='pixel'; expected a `label` as well",
        ),
        ({"labels_per_class": -1}, r"labels_per_class: -1; expected at least 1, or 0"),
        (
            {"labels_per_class": 5, "label": "where", "draw": "patch"},
            r"labels_per_class: 5 with draw='patch'; expected draw='pixel'",
        ),
        (
            {"labels_per_class": 5, "label": "where", "paired_with": "other"},
            "labels_per_class: 5 .*expected 0 for a paired source",
        ),
        (
            {"crop": 4},
            r"config\.data\.crop: 4; expected an odd number, the side of the window around a pixel "
            r"of source 'scene'",
        ),
        ({"crop": 9}, r"first: id0 has shape \[202, 9, 7\], expected at least 9 x 9 pixels"),
        (
            {"label": "kind"},
            r"label 'kind' of id0 belongs to the whole patch; source 'scene' draws pixels, so it "
            r"needs a map",
        ),
        ({"label": "what"}, "no label 'what'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_first_batch(
    path: Path, changes: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        pipeline(path, **changes)


def test_a_split_without_a_labelled_pixel_is_named(tmp_path: Path):
    blank = dataclasses.replace(scene(0), labels={"where": CLASSES[0] * 0})
    path = write_store(tmp_path / "store", [blank], about={"labels": SHAPES})
    with pytest.raises(ValueError, match=f"{path}: no pixel of split 'train' has label 'where'"):
        pipeline(path, label="where")


def test_a_paired_source_draws_what_its_leader_draws(path: Path):
    sources = {"hsi": of_pixels(path), "lidar": SourceConfig(str(path), "enmap", paired_with="hsi")}
    with pytest.raises(
        ValueError,
        match=r"sources\.lidar\.draw: 'patch', but it is paired with 'hsi', which draws 'pixel'",
    ):
        Config(sources, 4, 1)


def test_the_store_is_as_it_was(path: Path):
    """Nothing writes into the arrays that sources share."""
    pipeline(path, crop=3, label="where").batch(0)["scene"]["pixels"][:] = -1
    for number, found in enumerate(open_store(path)):
        np.testing.assert_array_equal(found.pixels, traced(number, HEIGHT, WIDTH))
