"""Mixtures draw one component per step, in proportion; paired sources show the same locations."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import write_store
from traced import CROP, HEIGHT, WIDTH, assert_same, origin, sample, traced

from eo_jax.config import parse_section
from eo_jax.data.mixture import ComponentConfig, Mixture
from eo_jax.data.pipeline import Config, Pipeline
from eo_jax.data.source import SourceConfig

BLOCK = 1000


def mixture(weights: dict[str, float], seed: int = 0) -> Mixture:
    return Mixture(
        {name: ComponentConfig((name,), weight) for name, weight in weights.items()}, seed
    )


# -------------------------------------------------------------------------------------- proportions


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
    seed=st.integers(0, 2**32),
    block=st.sampled_from([0, 1, 10**6]),
)
def test_a_block_has_every_component_as_often_as_its_weight_says(
    weights: list[float], seed: int, block: int
):
    mixed = mixture({f"e{i}": weight for i, weight in enumerate(weights)}, seed)
    drawn = Counter(mixed.component(n) for n in range(block * BLOCK, (block + 1) * BLOCK))
    exact = {f"e{i}": BLOCK * weight / sum(weights) for i, weight in enumerate(weights)}
    assert drawn.keys() == exact.keys() and all(
        abs(drawn[name] - exact[name]) < 1 for name in exact
    )
    # Largest remainder: components rounded up had at least the remainder of those rounded down.
    up = [steps % 1 for name, steps in exact.items() if drawn[name] > steps]
    down = [steps % 1 for name, steps in exact.items() if drawn[name] < steps]
    assert min(up, default=1) >= max(down, default=0) - 1e-9
    assert mixed.fractions == {name: drawn[name] / BLOCK for name in exact}


def test_what_came_before_a_step_is_what_was_drawn_before_it():
    mixed, seen = mixture({"a": 5, "b": 2, "c": 0.5}), Counter()
    for n in range(2500):
        assert mixed.counts_before(n) == {name: seen[name] for name in "abc"}
        seen[mixed.component(n)] += 1


def test_blocks_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(
            mixture({"a": 1, "b": 1}, seed).component(n)
            for n in range(block * BLOCK, (block + 1) * BLOCK)
        )
        for seed in (0, 1)
        for block in (0, 1)
    }
    assert len(orders) == 4


def test_the_order_in_which_components_are_written_changes_nothing():
    there, back = mixture({"a": 3, "b": 1}), mixture({"b": 1, "a": 3})
    assert [there.component(n) for n in range(BLOCK)] == [back.component(n) for n in range(BLOCK)]


def test_two_days_of_steps_and_any_number_take_neither_time_nor_memory():
    weights = {"s2": 0.61, "s1": 0.28, "both": 0.11}
    mixed = mixture(weights)
    tracemalloc.start()
    far = {
        n: (mixed.component(n), mixed.counts_before(n)) for n in (0, 10**3, 10**6, 10**9, 10**9 + 1)
    }
    # Ten steps a second, sampled.
    days = Counter(mixed.component(n) for n in range(0, 2 * 86_400 * 10, 97))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    for n in (10**3, 10**6, 10**9):
        assert sum(far[n][1].values()) == n
        assert {name: count / n for name, count in far[n][1].items()} == pytest.approx(
            weights, abs=1e-3
        )
    component, before = far[10**9]
    assert far[10**9 + 1][1] == before | {component: before[component] + 1}
    assert {name: days[name] / days.total() for name in weights} == pytest.approx(weights, abs=0.02)


# ------------------------------------------------------------------------------------------ batches

DATES = (1, 2, 3, 1, 2, 3, 1)  # of each location


def samples(
    first: int, dates: tuple[int, ...], height: int = HEIGHT, names: str = "abcdefghij"
) -> list:
    """Samples from number `first` on, `dates[k]` of location k."""
    locations = itertools.chain.from_iterable(
        [names[location]] * count for location, count in enumerate(dates)
    )
    return [
        sample(first + i, location, traced(first + i, height))
        for i, location in enumerate(locations)
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("mixture") / "s2", samples(0, DATES))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Locations b to g, three dates of b, and three that the first store lacks; from sample 16."""
    return write_store(
        tmp_path_factory.mktemp("mixture") / "s1",
        samples(16, (3, 2, 1, 2, 1, 2, 1, 1, 1), names="bcdefghij"),
    )


def components(**about: tuple[float, str]) -> dict[str, ComponentConfig]:
    """{name: (weight, names of the sources separated by blanks)}."""
    return {
        name: ComponentConfig(tuple(sources.split()), weight)
        for name, (weight, sources) in about.items()
    }


def pipeline(
    sources: dict[str, SourceConfig],
    components: dict[str, ComponentConfig],
    batch_size: int = 4,
    seed: int = 3,
) -> Pipeline:
    return Pipeline(Config(sources, batch_size, CROP, mixture=components), seed)


def source(path: Path, **about: Any) -> SourceConfig:
    return SourceConfig(str(path), "enmap", **about)


def test_one_component_of_all_sources_changes_nothing(path: Path, other: Path):
    sources = {"s2": source(path, dates=2), "s1": source(other)}
    plain, single = pipeline(sources, {}), pipeline(sources, components(only=(0.3, "s1 s2")))
    for n in (0, 1, 5, 10**6):
        assert_same(single.batch(n), plain.batch(n))
        assert plain.batch(n)["s1"]["position"].tolist() == [4 * n + r for r in range(4)]
    assert plain.counts(5) == single.counts(5) == {}


def test_a_batch_has_the_sources_of_its_component(path: Path, other: Path):
    mixed = pipeline(
        {"s2": source(path), "s1": source(other)}, components(one=(2, "s2"), two=(1, "s1 s2"))
    )
    seen = {(mixed.mixture.component(n), *sorted(mixed.batch(n))) for n in range(12)}
    assert seen == {("one", "s2"), ("two", "s1", "s2")}
    assert {component: sorted(mixed.empty_batch(component)) for component in ("one", "two")} == {
        "one": ["s2"],
        "two": ["s1", "s2"],
    }


def test_epochs_stay_whole_whatever_is_drawn_between(path: Path, other: Path):
    """s2 is in two components, and counts its batches in both together."""
    mixed = pipeline(
        {"s2": source(path), "s1": source(other)},
        components(one=(2, "s2"), two=(1, "s1 s2")),
        batch_size=7,
    )
    batches = [mixed.batch(n) for n in range(12)]
    location_of = np.repeat(np.arange(len(DATES)), DATES)
    for name, locations in (("s2", 7), ("s1", 9)):
        positions = np.concatenate([batch[name]["position"] for batch in batches if name in batch])
        assert positions.tolist() == list(range(len(positions)))
        assert len(mixed.sources[name].groups) == locations
    for batch in batches:
        if "s2" in batch:
            assert sorted(location_of[origin(row[0])[0]] for row in batch["s2"]["pixels"]) == list(
                range(7)
            )


def test_a_source_draws_in_a_mixture_as_it_does_alone(path: Path, other: Path):
    """The k-th batch of a component has the locations of the k-th batch of its source alone.

    Its crops are those of the step.
    """
    mixed = pipeline(
        {"s2": source(path), "s1": source(other)}, components(one=(2, "s2"), two=(1, "s1"))
    )
    alone = pipeline({"s1": source(other)}, {})
    steps = [n for n in range(20) if mixed.mixture.component(n) == "two"]

    def shown(pipe, n):
        return [
            pipe.sources["s1"].store.index["group"][origin(row[0])[0] - 16]
            for row in pipe.batch(n)["s1"]["pixels"]
        ]

    assert len(steps) > 3
    for k, n in enumerate(steps):
        assert shown(mixed, n) == shown(alone, k)


def test_positions_far_away_take_no_lists(path: Path, other: Path):
    mixed = pipeline(
        {"s2": source(path), "s1": source(other)}, components(one=(0.7, "s2"), two=(0.3, "s1 s2"))
    )
    mixed.batch(0)
    tracemalloc.start()
    for n in (10**3, 10**6, 10**9):
        batch, before = mixed.batch(n), mixed.mixture.counts_before(n)
        assert batch["s2"]["position"][0] == 4 * n  # it is in every component
        assert (
            mixed.mixture.occurrences("s1", n)
            == before["two"]
            == pytest.approx(0.3 * n, abs=0.001 * n)
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


def test_the_log_says_which_component_and_how_much_of_each_so_far(path: Path, other: Path):
    mixed = pipeline(
        {"s2": source(path), "s1": source(other)}, components(one=(2, "s2"), two=(1, "s1"))
    )
    drawn = [mixed.mixture.component(n) for n in range(7)]
    assert mixed.counts(7) == {
        "component": drawn[6],
        "mixture/one": drawn.count("one") / 7,
        "mixture/two": drawn.count("two") / 7,
    }


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (
            {"a": (1, "s2"), "b": (1, "s3")},
            r"config\.data\.mixture\.b\.sources: 's3' is not a source; there are s1, s2",
        ),
        ({"a": (1, "s2")}, r"config\.data\.mixture: source 's1' is in no component"),
        (
            {"a": (0, "s2 s1")},
            r"config\.data\.mixture\.\*\.weight: 0; expected a finite number above 0",
        ),
        ({"a": (-1, "s2 s1")}, r"config\.data\.mixture\.\*\.weight: -1; expected"),
        ({"a": (float("nan"), "s2 s1")}, r"config\.data\.mixture\.\*\.weight: nan; expected"),
        ({"a": (1, "")}, r"config\.data\.mixture\.\*\.sources: \(\); expected different names"),
        (
            {"a": (1, "s2 s1 s2")},
            r"config\.data\.mixture\.\*\.sources: \('s2', 's1', 's2'\); expected different names",
        ),
        (
            {"a": (1, "s2"), "b": (1e-4, "s1")},
            r"config\.data\.mixture\.b\.weight: 0\.0001 is less than one of 1000 steps; .* "
            r"certainly drawn is 0\.001001",
        ),
    ],
)
def test_components_that_make_no_sense_are_refused(
    path: Path, other: Path, about: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        Config({"s2": source(path), "s1": source(other)}, mixture=components(**about))


def test_the_smallest_weight_that_the_message_names_is_drawn():
    assert mixture({"a": 1, "b": 0.001002}).counts_before(BLOCK) == {"a": 999, "b": 1}


def test_a_name_is_not_a_list_of_sources():
    with pytest.raises(
        ValueError,
        match=r"sources: 's2'; expected different names of sources, as in \('s1', 's2'\)",
    ):
        ComponentConfig("s2")


def test_components_of_a_config_are_checked_and_completed_by_name():
    data = {
        "sources": {
            "s1": {"store": "a", "sensor": "enmap"},
            "s2": {"store": "b", "sensor": "enmap"},
        },
        "mixture": {"both": {"sources": ["s1", "s2"]}},
    }
    config = parse_section({"data": data}, "data")
    assert config.mixture == {"both": ComponentConfig(("s1", "s2"), 1.0)}
    assert (
        parse_section(json.loads(json.dumps({"data": dataclasses.asdict(config)})), "data")
        == config
    )
    with pytest.raises(
        ValueError,
        match=r"config\.data\.mixture\.both\.wieght: unknown key; .* Did you mean 'weight'\?",
    ):
        parse_section(
            {"data": data | {"mixture": {"both": {"sources": ("s1", "s2"), "wieght": 2}}}}, "data"
        )


# ---------------------------------------------------------------------------- several of a location


def pairs(
    mixed: Pipeline, batches: int
) -> list[tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]]:
    """(origins of all dates of s2, origins of all dates of s1) of every row."""
    found = []
    for n in range(batches):
        two, one = (
            [[origin(date) for date in row] for row in mixed.batch(n)[name]["pixels"]]
            for name in ("s2", "s1")
        )
        found += zip(two, one, strict=True)
    return found


def test_a_paired_source_shows_the_same_location_and_the_same_window(path: Path, other: Path):
    mixed = pipeline(
        {"s1": source(other, dates=2, paired_with="s2"), "s2": source(path, dates=3)}, {}
    )
    stores = {name: mixed.sources[name].store.index["group"] for name in ("s1", "s2")}
    dates = set()
    for two, one in pairs(mixed, 30):
        assert (
            len(
                {stores["s2"][number] for number, *_ in two}
                | {stores["s1"][number - 16] for number, *_ in one}
            )
            == 1
        )
        assert len({(top, left) for _, top, left in two + one}) == 1
        dates.add((tuple(number for number, *_ in two), tuple(number for number, *_ in one)))
    of_b = {found for found in dates if found[0][0] in (1, 2)}  # two dates in s2, three in s1
    assert len(of_b) > 6, "the dates of one decide on those of the other"
    batch = mixed.batch(5)
    np.testing.assert_array_equal(batch["s1"]["position"], batch["s2"]["position"])


def test_a_leader_draws_the_dates_and_crops_that_it_draws_alone(path: Path):
    """A paired source with the same locations does not affect its leader."""
    alone = pipeline({"s2": source(path, dates=2)}, {})
    paired = pipeline({"a": source(path, paired_with="s2"), "s2": source(path, dates=2)}, {})
    for n in range(5):
        assert_same({"s2": paired.batch(n)["s2"]}, alone.batch(n))


def test_locations_that_one_of_them_has_not_seen_are_dropped_and_counted(path: Path, other: Path):
    sources = {
        "s2": source(path),
        "s1": source(other, paired_with="s2"),
        "third": source(other, dates=2, missing="drop", paired_with="s2"),
    }
    opened = pipeline(sources, {}).sources
    # Of a to g the other store has b to g, and two dates of b, c, e and g.
    for name, dropped in (("s2", 3), ("s1", 5), ("third", 5)):
        groups = opened[name].groups
        assert opened[name].store.index["group"][groups.first_samples()].tolist() == [
            "locationb",
            "locationc",
            "locatione",
            "locationg",
        ]
        assert groups.dropped == dropped


def test_a_paired_source_repeats_its_dates_where_it_has_fewer(path: Path, other: Path):
    mixed = pipeline({"s2": source(path), "s1": source(other, dates=4, paired_with="s2")}, {})
    assert len(mixed.sources["s2"].groups) == 6
    for _, one in pairs(mixed, 4):
        assert len(one) == 4


def test_paired_sources_and_components_go_together(path: Path, other: Path):
    about = components(pair=(1, "s1 s2"), alone=(1, "s2"))
    mixed = pipeline({"s2": source(path), "s1": source(other, paired_with="s2")}, about)
    locations = len(mixed.sources["s2"].groups)
    shown = []
    for n in range(locations * 2):
        batch = mixed.batch(n)
        shown += [origin(row[0])[0] for row in batch["s2"]["pixels"]]
        if "s1" in batch:
            np.testing.assert_array_equal(batch["s1"]["position"], batch["s2"]["position"])
    location_of = mixed.sources["s2"].store.index["group"]
    # Whole epochs over both components.
    assert set(Counter(location_of[number] for number in shown).values()) == {8}


@pytest.mark.parametrize(
    ("paired_with", "about", "message"),
    [
        (
            {"s1": "s3"},
            {},
            r"config\.data\.sources\.s1\.paired_with: 's3'; expected a source that is not paired "
            r"itself: s2, s4",
        ),
        (
            {"s1": "s1"},
            {},
            r"config\.data\.sources\.s1\.paired_with: 's1'; expected a source that is not paired "
            r"itself: s2, s4",
        ),
        (
            {"s1": "s2", "s4": "s1"},
            {},
            r"config\.data\.sources\.s4\.paired_with: 's1'; expected a source that is not paired "
            r"itself: s2",
        ),
        (
            {"s1": "s2"},
            {"a": (1, "s2 s4"), "b": (1, "s1")},
            r"config\.data\.mixture\.b\.sources: 's1' is paired with 's2', which is missing",
        ),
    ],
)
def test_paired_sources_that_make_no_sense_are_refused(
    path: Path, paired_with: dict, about: dict, message: str
):
    sources = {
        name: source(path, paired_with=paired_with.get(name, "")) for name in ("s1", "s2", "s4")
    }
    with pytest.raises(ValueError, match=message):
        Config(sources, mixture=components(**about))


def test_patches_of_another_size_are_refused_by_name(path: Path, tmp_path: Path):
    small = write_store(
        tmp_path / "small",
        [sample(20, "a"), sample(21, "b"), sample(22, "b", traced(22, HEIGHT - 1))],
    )
    message = (
        rf"{small}: id22 is {HEIGHT - 1} x {WIDTH} pixels, the same location in {path} is "
        rf"{HEIGHT} x {WIDTH}; .* convert both to one grid"
    )
    with pytest.raises(ValueError, match=message):
        pipeline({"s2": source(path), "s1": source(small, paired_with="s2")}, {})


def test_stores_without_a_common_location_are_refused_with_what_they_have(
    path: Path, tmp_path: Path
):
    elsewhere = write_store(tmp_path / "elsewhere", [sample(20, "x")])
    with pytest.raises(
        ValueError,
        match=rf"no location .* is in all of these.*: {path} has locationa, \.\.\.; {elsewhere} "
        r"has locationx, ",
    ):
        pipeline({"s2": source(path), "s1": source(elsewhere, paired_with="s2")}, {})
