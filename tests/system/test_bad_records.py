"""Bad records are replaced by a function of (seed, n, r) and counted; lost files are read again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_archives
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import PER_SHARD, write_store
from traced import CROP, assert_same, joined, origin, sample

from eo_jax.data import Store, open_store
from eo_jax.data.bad_records import BadRecord, BadRecords
from eo_jax.data.mixture import ComponentConfig
from eo_jax.data.pipeline import Config, Pipeline
from eo_jax.data.source import SourceConfig
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError
from eo_jax.data.store.remote import RemoteError
from eo_jax.schema import TIME_ABSENT

DATES = (1, 2, 3, 1, 2, 3, 1, 2)  # of each location
LOCATION_OF = np.repeat(np.arange(len(DATES)), DATES)
BAD = 7  # of location 4


def unreadable(store: Path) -> set[int]:
    """Samples whose record or pixels cannot be decoded."""
    opened, bad = open_store(store), set()
    for number in range(len(opened)):
        try:
            opened[number]
        except RecordError:
            bad.add(number)
    return bad


def damage(store: Path, number: int) -> None:
    """Flips one bit of the pixels of a sample."""
    before, (shard, row) = unreadable(store), divmod(number, PER_SHARD)
    if open_store(store).format == "array-record":
        file, data = store / f"shards/{shard:05d}.array_record", open_store(store).read(number)
        tiny_archives.flip(file, file.read_bytes().index(data) + len(data) // 2)
    else:
        file = next(store.glob(f"pixels/*/c/{shard}/0/0/0"))
        # Rows are about equally long, and the index is short.
        tiny_archives.flip(file, (2 * row + 1) * file.stat().st_size // (2 * PER_SHARD))
    assert unreadable(store) == before | {number}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("skipping")
    samples = [
        sample(i, int(location), labels={"kind": np.array(location)})
        for i, location in enumerate(LOCATION_OF)
    ]
    about = {"labels": {"kind": {"dtype": "int64", "shape": [], "values": {}}}}
    return {
        format: write_store(folder / format, samples, about=about, format=format)
        for format in FORMATS
    }


@pytest.fixture(scope="module")
def damaged(intact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with one bad record."""
    folder = tmp_path_factory.mktemp("damaged")
    for format, path in intact.items():
        damage(shutil.copytree(path, folder / format), BAD)
    return {format: folder / format for format in FORMATS}


def config(
    *stores: Path, batch_size: int = 4, components: dict | None = None, **about: Any
) -> Config:
    """Source "a" of two dates; with a second store "b", paired with "a", and "c".

    "c" is a source of its own, in a component of its own.
    """
    sources = {"a": SourceConfig(str(stores[0]), "enmap", dates=2, label="kind")}
    for store in stores[1:]:
        sources |= {
            "b": SourceConfig(str(store), "enmap", dates=2, paired_with="a"),
            "c": SourceConfig(str(store), "enmap"),
        }
        components = {"pair": ComponentConfig(("a", "b"), 2.0), "single": ComponentConfig(("c",))}
    return Config(
        sources,
        batch_size,
        CROP,
        mixture=components or {},
        **{"on_error": "skip", "max_bad_fraction": 0.2} | about,
    )


def rows_of(batch: dict, *names: str) -> list[tuple]:
    """The content of every row in some sources."""
    return [
        tuple(array[row].tobytes() for name in names for array in batch[name].values())
        for row in range(4)
    ]


# -------------------------------------------------------------------------------------- determinism


@settings(max_examples=20, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    processes=st.sampled_from([1, 2, 4]),
    threads=st.integers(0, 4),
    prefetch=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    first=st.integers(0, 3000),
)
def test_processes_and_threads_give_the_same_batches_with_all_of_it(
    intact, damaged, format, processes, threads, prefetch, seed, first
):
    """With two dates, a paired source, a mixture, and a bad record in both stores."""

    def of(format, **about):
        return config(damaged["array-record"], damaged[format], **about)

    expected = Pipeline(of("array-record"), seed)
    pipelines = [
        Pipeline(of(format, threads=threads, prefetch=prefetch), seed, rows)
        for rows in np.split(np.arange(4), processes)
    ]
    said: list[str] = []
    last = first + 6
    for n, parts in enumerate(
        zip(*(pipeline.batches(first, last, said.append) for pipeline in pipelines), strict=True),
        start=first,
    ):
        assert_same(joined(list(parts)), expected.batch(n))
        expected.bad.commit(n, lambda line: None)
    found = [pipeline.bad.skipped_before(last) for pipeline in pipelines]
    assert {name for part in found for name in part} == expected.bad.skipped_before(last).keys()
    assert all(samples == [BAD] for part in found for samples in part.values())
    assert len(said) == sum(map(len, found))


@pytest.mark.parametrize("format", FORMATS)
def test_only_rows_with_the_bad_record_change_and_their_location_is_another(
    intact, damaged, format: str
):
    """A leader and its paired source are replaced together, whichever is bad."""
    whole = Pipeline(config(intact["zarr"], intact[format]), 5)
    for stores in (
        (damaged["zarr"], intact[format]),
        (intact["zarr"], damaged[format]),
        (damaged["zarr"], damaged[format]),
    ):
        opened, replaced, locations = Pipeline(config(*stores), 5), 0, set()
        for n in range(12):
            before, after = whole.batch(n), opened.batch(n)
            names = tuple(before)
            for row, (old, new) in enumerate(
                zip(rows_of(before, *names), rows_of(after, *names), strict=True)
            ):
                shown = {
                    name: [origin(date)[0] for date in after[name]["pixels"][row]] for name in names
                }
                assert (
                    len({LOCATION_OF[number] for numbers in shown.values() for number in numbers})
                    == 1
                )
                assert not any(
                    BAD in numbers
                    for name, numbers in shown.items()
                    if damaged[format] == stores[name != "a"]
                )
                locations.add(int(LOCATION_OF[shown[names[0]][0]]))
                if "a" in after:
                    assert after["a"]["label"][row].tolist() == [
                        LOCATION_OF[number] for number in shown["a"]
                    ]
                if old != new:
                    was = [
                        origin(date)[0] for name in names for date in before[name]["pixels"][row]
                    ]
                    assert BAD in was
                    replaced += 1
                assert after[names[0]]["position"][row] == before[names[0]]["position"][row]
        assert replaced and len(locations) > 4


def test_nothing_of_the_location_that_was_skipped_stays_in_the_row(tmp_path: Path):
    """Its good date may have been read before its bad one."""
    dated = [sample(i, 0, time=1_650_000_000, lonlat=(13.5, 52.25)) for i in range(2)]
    path = write_store(tmp_path / "store", [*dated, sample(2, 1)])
    damage(path, 1)
    opened = Pipeline(
        Config(
            {"a": SourceConfig(str(path), "enmap", dates=2)},
            4,
            CROP,
            on_error="skip",
            max_bad_fraction=1.0,
        ),
        5,
    )
    for n in range(5):
        fields = opened.batch(n)["a"]
        assert {origin(date)[0] for row in fields["pixels"] for date in row} == {2}
        assert (fields["time"] == TIME_ABSENT).all() and np.isnan(fields["lonlat"]).all()


def test_a_record_is_counted_once_and_said_when_its_batch_is_taken(damaged):
    said: list[str] = []
    pipeline = Pipeline(config(damaged["zarr"], threads=4, prefetch=4), 5)
    taken = pipeline.batches(0, 30, said.append)
    lines = []
    for _ in range(30):
        next(taken)
        lines.append(len(said))
    first = lines.index(1)
    assert lines == [0] * first + [1] * (30 - first)
    assert (
        said[0].startswith("skipped, another location is shown instead: ")
        and f"(id id{BAD})" in said[0]
        and str(damaged["zarr"]) in said[0]
    )
    assert [pipeline.counts(step)["bad_records"] for step in (first, first + 1, 30)] == [0, 1, 1]
    assert (pipeline.bad.skipped_before(first), pipeline.bad.skipped_before(30)) == (
        {},
        {"a": [BAD]},
    )


def test_the_samples_that_a_batch_shows_in_place_of_a_bad_one_are_named(damaged):
    pipeline = Pipeline(config(damaged["zarr"], damaged["zarr"]), 5)
    batches, replaced = enumerate(pipeline.batches(0, 12, lambda line: None)), 0
    while not replaced:
        n, batch = next(batches)
        drawn, shown, line = pipeline.samples(n), pipeline.shown(n), pipeline.describe(n)
        for name, fields in batch.items():
            pixels = [[origin(date)[0] for date in row] for row in fields["pixels"]]
            assert shown[name].tolist() == pixels
            pairs = zip(drawn[name].ravel()[:4], shown[name].ravel(), strict=False)
            for old, new in pairs:
                assert (f"id{new} in place of id{old}" in line) == (old != new)
                replaced += old != new


def test_counting_goes_on_from_what_was_saved(damaged):
    said: list[str] = []
    pipeline = Pipeline(config(damaged["zarr"]), 5)
    pipeline.bad.restore({"a": [3, BAD]})
    for _ in pipeline.batches(10, 30, said.append):
        pass
    assert not said and pipeline.bad.skipped_before(10) == pipeline.bad.skipped_before(30) == {
        "a": [3, BAD]
    }
    assert pipeline.counts(10)["bad_records"] == 2


def test_what_later_batches_met_does_not_count_before_them():
    bad, said = BadRecords({"a": 2, "b": 1}), []
    bad.report(4, [BadRecord("a", 9, "nine"), BadRecord("b", 9, "other")])
    bad.report(
        3, [BadRecord("a", 9, "nine"), BadRecord("a", 9, "nine"), BadRecord("a", 8, "eight")]
    )
    for n in range(4):
        bad.commit(n, said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["nine", "eight"]
    bad.commit(4, said.append)
    assert (bad.skipped_before(3), bad.skipped_before(4), bad.skipped_before(5)) == (
        {},
        {"a": [8, 9]},
        {"a": [8, 9], "b": [9]},
    )
    bad.report(5, [BadRecord("a", 7, "seven")])
    with pytest.raises(
        RecordError,
        match=r"source 'a': 3 records cannot be decoded, config\.data\.max_bad_fraction allows "
        r"2; .* The last: seven",
    ):
        bad.commit(5, said.append)


def test_what_a_batch_reads_is_announced_in_the_order_of_reading(intact, monkeypatch):
    """Requests over a network can then run in parallel."""
    announced, read, read_into = [], [], Store.read_into
    monkeypatch.setattr(
        "eo_jax.data.pipeline.begin_reading",
        lambda samples: announced.extend((store.path, i) for store, i in samples),
    )
    monkeypatch.setattr(
        Store,
        "read_into",
        lambda store, i, *rest: (read.append((store.path, i)), read_into(store, i, *rest))[1],
    )
    opened = Pipeline(config(intact["zarr"], intact["zarr-raw"]), 5)
    for n in range(4):
        opened.batch(n)
    assert announced == read and len({path for path, _ in read}) == 2


# --------------------------------------------------------------------------------------------- ends


def test_more_than_the_limit_stop_the_run_at_the_batch_that_met_them(intact, tmp_path: Path):
    path, damages = shutil.copytree(intact["zarr"], tmp_path / "store"), {0, 3, 8, 12}
    for number in damages:
        damage(path, number)
    whole = Pipeline(config(intact["zarr"], batch_size=1), 8)
    first = next(
        n
        for n in range(40)
        if damages & {origin(date)[0] for date in whole.batch(n)["a"]["pixels"][0]}
    )
    ends = []
    # Of 15 samples none, or two, may be bad.
    for max_bad_fraction, threads in (
        (0.0, 0),
        (0.0, 2),
        (0.14, 0),
        (0.14, 4),
    ):
        taken = Pipeline(
            config(
                path, batch_size=1, threads=threads, prefetch=4, max_bad_fraction=max_bad_fraction
            ),
            8,
        ).batches(0, 40, lambda line: None)
        ends.append(0)
        with pytest.raises(
            RecordError,
            match=rf"source 'a': {3 if max_bad_fraction else 1} records cannot be decoded, .*\(id "
            r"id\d+\)",
        ):
            for _ in taken:
                ends[-1] += 1
    assert ends[0] == ends[1] == first < ends[2] == ends[3] < 40


def test_a_store_with_nothing_to_read_ends_instead_of_trying_for_ever(intact, tmp_path: Path):
    path = shutil.copytree(intact["zarr"], tmp_path / "store")
    for number in range(len(LOCATION_OF)):
        damage(path, number)
    with pytest.raises(
        RecordError,
        match=r"step 3: none of 100 locations of source 'a' can be decoded; the last: .*id\d+",
    ):
        Pipeline(config(path, max_bad_fraction=1.0), 5).batch(2)


def test_stop_is_the_default_and_names_the_record(damaged):
    assert Config().on_error == "stop"
    with pytest.raises(RecordError, match=rf"\(id id{BAD}\): pixels cannot be read from"):
        list(Pipeline(config(damaged["zarr"], on_error="stop"), 5).batches(0, 30))
    assert "bad_records" not in Pipeline(config(damaged["zarr"], on_error="stop"), 5).counts(3)


def test_a_missing_label_is_not_a_bad_record(intact, tmp_path: Path):
    """It would be missing everywhere; skipping would hide a mistake in the config."""
    about = {"labels": {"kind": {"dtype": "int64", "shape": [], "values": {}}}}
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(3)], about=about)
    with pytest.raises(ValueError, match="no label 'kind'") as error:
        Pipeline(config(path), 0).batch(0)
    assert not isinstance(error.value, RecordError)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"on_error": "ignore"}, r"config\.data\.on_error: 'ignore'; expected 'stop' or 'skip'"),
        (
            {"max_bad_fraction": 1.5},
            r"config\.data\.max_bad_fraction: 1\.5; expected a fraction from 0 to 1",
        ),
        (
            {"max_bad_fraction": float("nan")},
            r"config\.data\.max_bad_fraction: nan; expected a fraction",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(about: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Config(**about)


# ------------------------------------------------------------------------------------------ outages


@pytest.fixture
def mount(intact, tmp_path: Path, request):
    """(path of a store, function that takes it away or brings it back)."""
    path, away = shutil.copytree(intact[request.param], tmp_path / "store"), tmp_path / "away"
    return path, lambda: path.rename(away) if path.exists() else away.rename(path)


@pytest.mark.parametrize("mount", FORMATS, indirect=True)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("back_after", [0.1, 0.4, 1.6])
def test_a_mount_that_comes_back_changes_nothing(intact, mount, opened: bool, back_after: float):
    path, switch = mount
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if seconds == back_after:
            switch()

    pipeline = Pipeline(config(path, on_error="stop"), 5, sleep=sleep)
    if opened:
        pipeline.batch(9)
    switch()
    expected = Pipeline(config(intact["zarr"]), 5)
    for n in range(3):
        assert_same(pipeline.batch(n), expected.batch(n))
    assert pauses in ([0.1, 0.4, 1.6][: len(pauses)], []) and (pauses or opened)


@pytest.mark.parametrize("mount", FORMATS, indirect=True)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_mount_that_stays_away_ends_the_run_and_skips_nothing(mount, on_error: str):
    path, switch = mount
    pauses: list[float] = []
    pipeline = Pipeline(config(path, on_error=on_error), 5, sleep=pauses.append)
    switch()
    with pytest.raises(
        OSError,
        match=rf"^step 7: {path}/.*No such file or directory.*; tried 4 times in 2\.1 s\. When the "
        r"file can be read, the same",
    ):
        pipeline.batch(6)
    assert pauses == [0.1, 0.4, 1.6]
    assert not pipeline.bad.skipped_before(100)


def test_a_network_that_was_tried_again_and_again_is_not_tried_again(intact, monkeypatch):
    pauses: list[float] = []

    def refused(*_):
        raise RemoteError("s3://bucket/store: no answer in 5 attempts")

    monkeypatch.setattr(Store, "read_into", refused)
    with pytest.raises(RemoteError, match="no answer in 5 attempts"):
        Pipeline(config(intact["zarr"]), 5, sleep=pauses.append).batch(0)
    assert not pauses


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_record_is_not_read_again(damaged, format: str):
    pauses: list[float] = []
    pipeline = Pipeline(config(damaged[format]), 5, sleep=pauses.append)
    for _ in pipeline.batches(0, 10, lambda line: None):
        pass
    assert pipeline.bad.skipped_before(10) == {"a": [BAD]} and not pauses
