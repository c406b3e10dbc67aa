"""The pipeline: row r of global batch n is a function of (seed, n, r) in any process and thread."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_archives
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import write_store, write_tiny_store
from traced import CROP, HEIGHT, WIDTH, assert_same, joined, origin, sample, traced

from eo_jax.data import Store, open_store
from eo_jax.data.index import Order
from eo_jax.data.pipeline import Config, Pipeline, Source, SourceConfig, in_order
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError
from eo_jax.schema import TIME_ABSENT, Batch, Sample

DATES = (1, 2, 3, 1, 2, 3, 1)  # of each location


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    locations = itertools.chain.from_iterable(
        [location] * dates for location, dates in enumerate(DATES)
    )
    return write_store(
        tmp_path_factory.mktemp("pipeline") / "store",
        [sample(i, location) for i, location in enumerate(locations)],
    )


def config(
    path: Path,
    batch_size: int = 4,
    crop: int = CROP,
    threads: int = 2,
    prefetch: int = 2,
    **source: Any,
) -> Config:
    return Config(
        {"enmap": SourceConfig(str(path), **{"sensor": "enmap", **source})},
        batch_size,
        crop,
        threads,
        prefetch,
    )


def blocks(rows: int, processes: int) -> list[np.ndarray]:
    """The rows of each process, where they are neighbours."""
    return np.split(np.arange(rows), processes)


def interleaved(rows: int, processes: int) -> list[np.ndarray]:
    """The rows of each process, where they take turns, the last first."""
    return [np.arange(process, rows, processes) for process in reversed(range(processes))]


def chosen(batch: Batch, rows: np.ndarray) -> Batch:
    return {
        source: {name: array[rows] for name, array in fields.items()}
        for source, fields in batch.items()
    }


def locations_drawn(pipeline: Pipeline, first: int, last: int) -> list[int]:
    """The location of every row."""
    location_of = np.repeat(np.arange(len(DATES)), DATES)
    rows = [row for n in range(first, last) for row in pipeline.batch(n)["enmap"]["pixels"]]
    return [int(location_of[origin(row[0])[0]]) for row in rows]


# -------------------------------------------------------------------------------------- determinism


def test_a_batch_has_the_shapes_and_types_of_the_schema(path: Path):
    fields = Pipeline(config(path, dates=2), 0).batch(3)["enmap"]
    assert {name: (array.shape, array.dtype.name) for name, array in fields.items()} == {
        "pixels": ((4, 2, 202, CROP, CROP), "int16"),
        "time": ((4, 2), "int32"),
        "lonlat": ((4, 2), "float32"),
        "position": ((4,), "int64"),
    }
    assert fields["position"].tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_their_rows_of_the_same_batch(path: Path, processes: int):
    """Whichever they are: on TPU slices they are not neighbours."""
    one = Pipeline(config(path, dates=2), 7)
    for rows in (blocks(4, processes), interleaved(4, processes)):
        parts = [Pipeline(config(path, dates=2), 7, some) for some in rows]
        for n in (0, 1, 5):
            whole = one.batch(n)
            for some, part in zip(rows, parts, strict=True):
                assert_same(part.batch(n), chosen(whole, some))


@pytest.mark.parametrize(
    ("threads", "prefetch"), [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3), (4, 1), (4, 4)]
)
def test_threads_and_prefetch_change_nothing(path: Path, threads: int, prefetch: int):
    pipeline = Pipeline(config(path, threads=threads, prefetch=prefetch, dates=2), 7)
    batches = list(pipeline.batches(0, 6))
    assert len(batches) == 6
    for n, batch in enumerate(batches):
        assert_same(batch, pipeline.batch(n))


def test_a_run_started_at_n_reads_on_as_if_it_had_never_stopped(path: Path):
    whole = list(Pipeline(config(path), 7).batches(0, 6))
    for n, batch in enumerate(Pipeline(config(path, threads=1), 7).batches(4, 6), start=4):
        assert_same(batch, whole[n])


def test_a_row_does_not_depend_on_other_rows(path: Path):
    """Crop and dates of row r of batch n are the same in a larger batch."""
    small, large = (Pipeline(config(path, batch_size=size), 7).batch(0)["enmap"] for size in (2, 4))
    np.testing.assert_array_equal(large["pixels"][:2], small["pixels"])


def test_nothing_left_to_read(path: Path):
    assert list(Pipeline(config(path), 0).batches(5, 5)) == []


def test_seeds_change_the_order(path: Path):
    orders = {
        tuple(locations_drawn(Pipeline(config(path, batch_size=7), seed), 0, 1))
        for seed in range(4)
    }
    assert len(orders) == 4


def test_rows_batches_and_seeds_draw_crops_of_their_own(tmp_path: Path):
    """There is one location, so the order does not matter: equal draws would give equal crops."""
    path = write_store(tmp_path / "store", [sample(0)])
    draws = {}
    for seed, n in itertools.product(range(3), range(3)):
        rows = Pipeline(config(path, batch_size=8), seed).batch(n)["enmap"]["pixels"]
        draws[seed, n] = tuple(origin(row[0]) for row in rows)
    assert len(set(draws.values())) == 9
    assert all(len(set(rows)) > 3 for rows in draws.values())


def test_every_epoch_draws_every_location_once_and_epochs_differ(path: Path):
    # 28 rows are 4 epochs of 7 locations; epochs end within batches.
    drawn = locations_drawn(Pipeline(config(path), 3), 0, 7)
    epochs = [drawn[i : i + 7] for i in range(0, 28, 7)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 4
    assert len(set(map(tuple, epochs))) == 4


def test_held_batches_stay_as_they_were(path: Path):
    iterator = Pipeline(config(path), 0).batches(0, 8)
    held = next(iterator)
    copy = {"enmap": {name: array.copy() for name, array in held["enmap"].items()}}
    for batch in iterator:
        batch["enmap"]["pixels"][:] = -1
    assert_same(held, copy)


def test_batches_held_on_the_device_stay_as_they_were(path: Path):
    """JAX on CPU uses the buffers in place."""
    batches = Pipeline(config(path), 0).batches(0, 12)
    placed = [
        jax.device_put(batch["enmap"]["pixels"])
        for batch, _ in zip(batches, range(6), strict=False)
    ]
    for batch in batches:
        batch["enmap"]["pixels"][:] = -1
    again = Pipeline(config(path), 0)
    for n, pixels in enumerate(placed):
        np.testing.assert_array_equal(pixels, again.batch(n)["enmap"]["pixels"])


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (2, 2), (4, 2)])
def test_buffers_are_used_again_and_bounded(path: Path, threads: int, prefetch: int):
    batches = Pipeline(config(path, threads=threads, prefetch=prefetch), 0).batches(0, 60)
    assert (
        len({batch["enmap"]["pixels"].ctypes.data for batch in batches}) <= threads + prefetch + 2
    )


def test_two_sources_are_read_side_by_side(path: Path, tmp_path: Path):
    other = write_store(tmp_path / "other", [sample(20, 0), sample(21, 1)])
    sources = {
        "one": SourceConfig(str(path), "enmap"),
        "two": SourceConfig(str(other), "enmap", dates=2),
    }
    batch = Pipeline(Config(sources, 4, CROP), 0).batch(0)
    alone = Pipeline(Config({"two": sources["two"]}, 4, CROP), 0).batch(0)
    assert_same({"two": batch["two"]}, alone)
    assert {origin(row[0])[0] for row in batch["two"]["pixels"]} == {20, 21}
    assert {origin(row[0])[0] for row in batch["one"]["pixels"]} <= set(range(13))


# ------------------------------------------------------------------------------------------ formats


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same samples in every format, with labels of each kind, times and locations."""
    folder = tmp_path_factory.mktemp("formats")
    return {format: write_tiny_store(folder / format, size=12, format=format) for format in FORMATS}


@settings(max_examples=12, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    processes=st.sampled_from([1, 2, 4]),
    about=st.fixed_dictionaries(
        {"threads": st.integers(0, 4), "prefetch": st.integers(1, 3), "dates": st.integers(1, 3)}
    ),
    seed=st.integers(0, 2**32),
    first=st.integers(0, 1000),
)
def test_any_format_processes_and_threads_give_the_same_batches(
    stores, format, processes, about, seed, first
):
    expected = Pipeline(config(stores["array-record"], dates=about["dates"], label="landuse"), seed)
    pipelines = [
        Pipeline(config(stores[format], **about, label="landuse"), seed, rows)
        for rows in blocks(4, processes)
    ]
    for n, parts in enumerate(
        zip(*(pipeline.batches(first, first + 2) for pipeline in pipelines), strict=True),
        start=first,
    ):
        assert_same(joined(parts), expected.batch(n))


@pytest.mark.parametrize("format", FORMATS)
def test_a_batch_holds_what_the_samples_hold(stores, format: str):
    """Over several epochs: in zarr-raw, a second read takes another path."""
    pipeline = Pipeline(config(stores[format], crop=12, label="landuse"), 0)
    by_time = {sample.time: sample for sample in open_store(stores[format])}
    for n in range(8):
        fields = pipeline.batch(n)["enmap"]
        for row, time in enumerate(fields["time"][:, 0].tolist()):
            np.testing.assert_array_equal(fields["pixels"][row, 0], by_time[time].pixels)
            np.testing.assert_array_equal(fields["label"][row, 0], by_time[time].labels["landuse"])
            np.testing.assert_array_equal(fields["lonlat"][row], np.float32(by_time[time].lonlat))


@pytest.mark.parametrize("format", ["zarr", "zarr-raw"])
def test_records_are_read_only_for_labels(stores, format: str, monkeypatch: pytest.MonkeyPatch):
    without, labelled = (
        Pipeline(config(stores[format], label=label), 0) for label in ("", "landuse")
    )
    read = []
    monkeypatch.setattr(
        Store, "read", lambda store, i, inner=Store.read: read.append(i) or inner(store, i)
    )
    without.batch(0)
    assert not read
    labelled.batch(0)
    assert len(read) == 4


@pytest.mark.parametrize("format", FORMATS)
def test_decoding_allocates_no_samples(tmp_path: Path, format: str):
    path = write_store(
        tmp_path / "store", [sample(i, i, traced(i, 64, 64)) for i in range(4)], format=format
    )
    pipeline = Pipeline(config(path, crop=48), 0)
    for n in range(2):
        pipeline.batch(n)
    tracemalloc.start()
    pipeline.batch(2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 202 * 48 * 48 * 2 / 4


@pytest.mark.parametrize("format", ["zarr", "zarr-raw"])
def test_a_damaged_chunk_stops_the_run_by_name(tmp_path: Path, format: str):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(2)], format=format)
    shard = path / "pixels/enmap-int16-202x10x8/c/0/0/0/0"
    tiny_archives.flip(shard, 100)
    with pytest.raises(
        RecordError,
        match=rf"record 0 \(id id0\): pixels cannot be read from {shard} \(a checksum does not "
        r"match\)",
    ):
        Pipeline(config(path), 0).batch(0)


def test_a_file_that_shrank_is_an_error_and_not_the_end_of_the_process(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(2)], format="zarr-raw")
    store, out = open_store(path), np.empty((202, 10, 8), np.int16)
    store.read_into(1, out)
    with open(path / "pixels/enmap-int16-202x10x8/c/0/0/0/0", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(RecordError, match="it has 1000 bytes, the manifest says"):
        store.read_into(1, out)


@pytest.mark.parametrize("format", FORMATS)
def test_reading_into_an_array_of_another_shape_is_refused(stores, format: str):
    store = open_store(stores[format])
    for shape in ((202, 12, 11), (1, 12, 12), (202, 12, 12, 1)):
        with pytest.raises(
            ValueError, match=r"the part to read has shape \(202, 12, 12\), the array to read into"
        ):
            store.read_into(0, np.empty(shape, np.int16))


@pytest.mark.parametrize("format", FORMATS)
def test_a_pickled_store_reads_into_the_same_way(stores, format: str):
    store, found = open_store(stores[format]), np.empty((202, 5, 7), np.int16)
    for _ in range(2):
        store.read_into(3, found, slice(2, 7), slice(5, 12))
    again = pickle.loads(pickle.dumps(store))
    for _ in range(2):
        other = np.empty_like(found)
        again.read_into(3, other, slice(2, 7), slice(5, 12))
        np.testing.assert_array_equal(other, found)
    np.testing.assert_array_equal(found, store[3].pixels[:, 2:7, 5:12])


# --------------------------------------------------------------------------------------------- size


def test_the_order_of_a_million_locations_takes_no_memory_and_no_time_to_reach():
    tracemalloc.start()
    order = Order(10**6, 0)
    far = [order[10**12 + i] for i in range(10_000)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(far)) == 10_000 and peak < 2 * 2**20
    assert [order[10**12 + i] for i in range(0, 10_000, 997)] == far[::997]


# ---------------------------------------------------------------------------------- dates and crops


def numbers_and_offsets(
    path: Path, batches: int, **source: Any
) -> list[tuple[list[int], set[tuple[int, int]]]]:
    """(sample of every date, offsets of the crops) of every row."""
    pipeline = Pipeline(config(path, batch_size=7, **source), 0)
    rows = [
        [origin(date) for date in row]
        for n in range(batches)
        for row in pipeline.batch(n)["enmap"]["pixels"]
    ]
    return [([number for number, *_ in row], {(top, left) for _, top, left in row}) for row in rows]


def test_two_dates_are_distinct_where_there_are_two_and_share_one_crop(path: Path):
    of_location = [
        set(numbers) for numbers in np.split(np.arange(sum(DATES)), np.cumsum(DATES)[:-1])
    ]
    pairs = set()
    for numbers, offsets in numbers_and_offsets(path, 40, dates=2):
        location = next(numbers_of for numbers_of in of_location if numbers[0] in numbers_of)
        assert set(numbers) <= location and len(set(numbers)) == min(2, len(location))
        assert len(offsets) == 1
        pairs.add(tuple(numbers))
    # Every ordered pair of distinct dates is drawn: 3 single locations, 2 locations of two dates, 2
    # of three.
    assert len(pairs) == 3 * 1 + 2 * 2 + 2 * 6


def test_drop_draws_only_locations_with_enough_dates(path: Path):
    rows = numbers_and_offsets(path, 2, dates=3, missing="drop")
    assert {tuple(sorted(numbers)) for numbers, _ in rows} == {(3, 4, 5), (9, 10, 11)}
    assert (
        Source(
            "enmap", SourceConfig(str(path), "enmap", dates=3, missing="drop"), CROP
        ).groups.dropped
        == 5
    )


def test_crops_reach_every_offset_and_no_other(path: Path):
    offsets = set().union(*(found for _, found in numbers_and_offsets(path, 40)))
    assert offsets == set(itertools.product(range(HEIGHT - CROP + 1), range(WIDTH - CROP + 1)))


def test_a_crop_of_the_whole_sample(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(3, pixels=traced(3, CROP, CROP))])
    assert origin(Pipeline(config(path), 0).batch(0)["enmap"]["pixels"][0, 0]) == (3, 0, 0)


def test_dates_of_different_sizes_share_a_crop_that_fits_both(tmp_path: Path):
    path = write_store(
        tmp_path / "store", [sample(0, pixels=traced(0, 14, 7)), sample(1, pixels=traced(1, 7, 14))]
    )
    for numbers, offsets in numbers_and_offsets(path, 4, dates=2):
        assert sorted(numbers) == [0, 1]
        assert offsets <= set(itertools.product(range(2), range(2))) and len(offsets) == 1


def test_time_and_location_and_their_absence(tmp_path: Path):
    samples = [sample(0, 0, time=1_650_000_000, lonlat=(13.5, 52.25)), sample(1, 1)]
    fields = Pipeline(config(write_store(tmp_path / "store", samples)), 0).batch(0)["enmap"]
    present = np.array([origin(row[0])[0] == 0 for row in fields["pixels"]])
    assert present.sum() == 2
    assert (fields["time"][present] == 1_650_000_000).all() and (
        fields["time"][~present] == TIME_ABSENT
    ).all()
    assert (fields["lonlat"][present] == [13.5, 52.25]).all() and np.isnan(
        fields["lonlat"][~present]
    ).all()


def test_a_store_of_int16_and_float32_is_read_as_float32(tmp_path: Path):
    exact = (traced(1) + 0.25).astype(np.float32)
    path = write_store(tmp_path / "store", [sample(0, 0), sample(1, 1, exact)])
    fields = Pipeline(config(path, crop=8), 0).batch(0)["enmap"]
    assert fields["pixels"].dtype == np.float32
    assert {
        float(row[0, 0, 0, 0]) % 20 - int(row[0, 0, 0, 0]) % 20 for row in fields["pixels"]
    } == {0.0, 0.25}


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensor": "enmap_l2a_224"}, "no sample of sensor 'enmap_l2a_224'; the store has enmap"),
        ({"sensor": "enmpa"}, "no sensor 'enmpa'.*Did you mean 'enmap'"),
        (
            {"crop": 9},
            r"first: id0 has shape \[202, 10, 8\], expected at least 9 x 9 pixels "
            r"\(config.data.crop\)",
        ),
        ({"split": "val"}, "split 'val' is empty"),
        (
            {"missing": "ignore"},
            "config.data.sources.*missing: 'ignore'; expected 'repeat' or 'drop'",
        ),
        ({"crop": 0}, "config.data.crop: 0; expected at least 1"),
        ({"batch_size": 0}, "config.data.batch_size: 0; expected at least 1"),
        ({"dates": 0}, "config.data.sources.*dates: 0; expected at least 1"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_first_read(
    path: Path, changes: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        Pipeline(config(path, **changes), 0)


def test_samples_of_another_number_of_bands_are_named(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(0, 0), sample(1, 1, traced(1)[:-1])])
    with pytest.raises(
        ValueError,
        match=rf"{path}: 1 samples do not fit.*first: id1 has shape \[201, 10, 8\], expected 202 "
        r"bands",
    ):
        Pipeline(config(path), 0)


def test_samples_of_another_split_need_not_fit(tmp_path: Path):
    path = write_store(
        tmp_path / "store", [sample(0, 0), sample(1, 1, traced(1, 3, 3))], ["train", "val"]
    )
    Pipeline(config(path), 0)
    with pytest.raises(ValueError, match="first: id1"):
        Pipeline(config(path, split="all"), 0)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_record_stops_the_run_by_name_after_the_batches_before_it(
    tmp_path: Path, threads: int
):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(8)])
    drawn = [
        origin(row[0])[0]
        for n in range(4)
        for row in Pipeline(config(path, batch_size=2), 0).batch(n)["enmap"]["pixels"]
    ]
    bad = drawn[5]  # in batch 2 of 0 to 3
    data, shard = open_store(path).read(bad), path / f"shards/0000{bad // 5}.array_record"
    tiny_archives.flip(shard, shard.read_bytes().index(data) + len(data) // 2)
    batches = Pipeline(config(path, batch_size=2, threads=threads), 0).batches(0, 4)
    assert [next(batches)["enmap"]["position"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(RecordError, match=rf"{shard} record {bad % 5} \(id id{bad}\): "):
        next(batches)


# ----------------------------------------------------------------------------------------- in order


def labelled(number: int, location: int = 0) -> Sample:
    """A sample with a map of 20 row + column, and a label of the whole patch."""
    return sample(
        number,
        location,
        labels={"where": (traced(number)[0] % 1000).astype(np.uint8), "kind": np.array(number % 3)},
    )


def source(path: Path, **changes: Any) -> Source:
    return Source("enmap", SourceConfig(str(path), "enmap", **changes), CROP)


def test_in_order_visits_every_sample_once_and_marks_the_padding(path: Path):
    batches = [batch["enmap"] for batch in in_order(source(path), 5)]
    assert [batch["pixels"].shape for batch in batches] == [(5, 1, 202, CROP, CROP)] * 3
    assert np.concatenate([batch["position"] for batch in batches]).tolist() == [*range(13), -1, -1]
    assert [origin(row[0])[0] for batch in batches for row in batch["pixels"]] == [
        *range(13),
        12,
        12,
    ]


def test_rows_of_in_order_are_those_of_whole_batches_and_only_they_are_read(path: Path):
    whole = list(in_order(source(path), 4))
    for rows in (*blocks(4, 2), *interleaved(4, 2)):
        opened, read = source(path), []
        arrays = opened.arrays
        opened.arrays = lambda i, arrays=arrays, read=read: (read.append(i), arrays(i))[1]
        for part, batch in zip(in_order(opened, 4, rows=rows), whole, strict=True):
            assert_same(part, chosen(batch, rows))
        wanted = [batch["enmap"]["position"][rows] for batch in whole]
        # The last sample also fills the padding.
        assert set(read) == {i for i in np.concatenate(wanted).tolist() if i >= 0} | {12}
        assert len(read) == len(set(read))


def test_in_order_crops_at_the_centre_and_the_label_with_the_pixels(tmp_path: Path):
    path = write_store(tmp_path / "store", [labelled(i) for i in range(3)])
    for batch in in_order(source(path), 2, "where"):
        fields = batch["enmap"]
        assert {origin(row[0])[1:] for row in fields["pixels"]} == {
            ((HEIGHT - CROP) // 2, (WIDTH - CROP) // 2)
        }
        np.testing.assert_array_equal(fields["label"], fields["pixels"][:, 0, 0] % 1000)


def test_in_order_gives_labels_of_whole_samples_as_they_are(tmp_path: Path):
    path = write_store(tmp_path / "store", [labelled(i) for i in range(5)])
    labels = np.concatenate(
        [batch["enmap"]["label"] for batch in in_order(source(path), 2, "kind")]
    )
    assert labels.tolist() == [0, 1, 2, 0, 1, 1]  # the last one is padding


def test_in_order_cuts_large_samples_into_crops_side_by_side(tmp_path: Path):
    large = [
        sample(i, pixels=traced(i, 14, 12 + i), labels={"where": traced(i, 14, 12 + i)[0]})
        for i in range(2)
    ]
    batches = [
        batch["enmap"]
        for batch in in_order(source(write_store(tmp_path / "store", large)), 3, "where")
    ]
    rows, labels = (
        np.concatenate([batch[field] for batch in batches]) for field in ("pixels", "label")
    )
    corners = [
        (0, 1, 0),
        (0, 1, 6),
        (0, 7, 0),
        (0, 7, 6),
        (1, 1, 0),
        (1, 1, 6),
        (1, 7, 0),
        (1, 7, 6),
    ]
    assert [origin(row[0]) for row in rows] == [*corners, corners[-1]]
    assert np.concatenate([batch["position"] for batch in batches]).tolist() == [0] * 4 + [
        1
    ] * 4 + [-1]
    np.testing.assert_array_equal(labels, rows[:, 0, 0])


def test_in_order_reads_one_split(tmp_path: Path):
    path = write_tiny_store(tmp_path / "store", size=8)
    splits = open_store(path).index["split"]
    positions = np.concatenate(
        [batch["enmap"]["position"] for batch in in_order(source(path, split="val"), 4)]
    )
    assert positions[positions >= 0].tolist() == np.flatnonzero(splits == "val").tolist()


def test_a_missing_label_is_named(tmp_path: Path):
    path = write_store(
        tmp_path / "store",
        [labelled(0), dataclasses.replace(labelled(1), labels={"kind": np.array(0)})],
    )
    with pytest.raises(
        ValueError, match=r"sample id1: no label 'where'; it has kind\. Convert with --labels where"
    ):
        list(in_order(source(path), 2, "where"))


# ------------------------------------------------------------------------------------------- no jax


def test_reading_a_store_never_imports_jax(path: Path):
    """A PyTorch user's workers need no jax. (Grain, which the pipeline uses, imports it.)"""
    code = (
        "import sys; from eo_jax.data import open_store; "
        f"print(len(list(open_store({str(path)!r}))), 'jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout.split() == ["13", "False"]
