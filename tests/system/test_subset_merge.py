"""`subset` and `merge` write complete stores whose samples are, bit for bit, those of their
sources.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import layouts
import numpy as np
import pytest
import tiny_archives
from tiny_store import change_index, without_checksums, write_store

from data_prep import subset
from data_prep.__main__ import main
from data_prep.conversion import rewrite, shard_task
from data_prep.statistics.moments import Contents
from data_prep.verify import verify
from eo_jax.data import Store, open_store
from eo_jax.data.store import record, writer
from eo_jax.data.store.files import StoreError
from eo_jax.data.store.index_file import CHECKSUMS
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.writer import finish_store, index_row, write_shard
from eo_jax.schema import Sample
from eo_jax.sensors import Band, Sensor

DAY = 86_400
OPTICAL = Sensor(
    "optical",
    "Optical",
    tuple(Band(f"B{n}", n, 500.0 + n, 10.0) for n in (1, 2)),
    10.0,
    "int16",
    1e-4,
    "reflectance",
    -1,
)
RADAR = Sensor(
    "radar", "Radar", (Band("VV", 1, None, None, kind="sar"),), 10.0, "float32", 1.0, "dB", None
)


def sample(number: int, sensor: Sensor = OPTICAL, size: int = 6, **fields) -> Sample:
    """A sample of location number // 2, on day `number` of 2020, with labels of three kinds and no-
    data that increases with the number.
    """
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 3000, (len(sensor.bands), size, size)).astype(sensor.dtype)
    if sensor.nodata is not None:
        pixels.reshape(-1)[:number] = sensor.nodata
    default = {
        "id": f"{sensor.id}/{number:03}",
        "group": f"place {number // 2:02}",
        "time": 1_577_836_800 + DAY * number,
        "lonlat": (10.0 * number - 60, 5.0 * number - 30),
        "labels": {
            "cover": rng.integers(0, 4, (size, size), np.uint8),
            "class": np.array(number % 3, np.int64),
        },
        "masks": {"clouds": rng.random((size, size)) < 0.1},
    }
    return Sample(pixels=pixels, sensor=sensor.id, **{**default, **fields})


def source(
    path: Path,
    samples: Sequence[Sample],
    splits: Sequence[str] | None = None,
    sensors: Sequence[Sensor] = (OPTICAL, RADAR),
) -> Path:
    """A store of shards of five samples, as `convert` describes it."""
    table, contents, rows = {sensor.id: sensor for sensor in sensors}, Contents(), []
    for one, split in zip(samples, splits or ["train"] * len(samples), strict=True):
        missing = table[one.sensor].missing(one.pixels)
        contents.add_sample(one, split, missing)
        rows.append(index_row(one, split, float(missing.mean())))
    archive = {
        "name": f"archive of {path.name}",
        "reader": "test",
        "licence": "free",
        "options": {},
    }
    present = {one.sensor for one in samples}
    about = {
        "archive": archive,
        "sensors": {name: row.row() for name, row in table.items() if name in present},
        **contents.about(),
    }
    starts = range(0, len(samples), 5)
    parts = [
        write_shard(path, number, "array-record", 5, samples[start : start + 5])
        for number, start in enumerate(starts)
    ]
    finish_store(
        path,
        parts,
        [rows[start : start + 5] for start in starts],
        about,
        "array-record",
        len(parts),
    )
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve optical samples of six locations, the last two locations for validation."""
    samples = [sample(n) for n in range(12)]
    return source(
        tmp_path_factory.mktemp("stores") / "optical", samples, ["train"] * 8 + ["val"] * 4
    )


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples of the same locations by another sensor."""
    samples = [sample(n, RADAR, 5) for n in range(12)]
    return source(tmp_path_factory.mktemp("stores") / "radar", samples, ["train"] * 8 + ["val"] * 4)


def run(*words: object) -> int:
    return main([*map(str, words), "--workers", "1", "--shard-mb", "0.0005"])


def assert_same(found: Sample, expected: Sample, **changed) -> None:
    """Their records are the same bytes."""
    assert record.encode(found) == record.encode(dataclasses.replace(expected, **changed))


def numbers(store: Store) -> list[int]:
    return [int(name.split("/")[-1]) for name in store.index["id"].tolist()]


# ------------------------------------------------------------------ subset


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--split", "val"), [8, 9, 10, 11]),
        (("--split", "val", "train"), list(range(12))),
        (("--sensor", "optical"), list(range(12))),
        (("--match", "*/00?", "*1"), [*range(10), 11]),
        (("--bbox", "-35", "-90", "0", "90"), [3, 4, 5, 6]),
        (("--bbox", "-180", "-10", "180", "5"), [4, 5, 6, 7]),
        (("--bbox", "30", "-90", "-50", "90"), [0, 1, 9, 10, 11]),  # across 180 degrees
        (("--since", "2020-01-10"), [9, 10, 11]),
        (("--until", "2020-01-03"), [0, 1, 2]),
        (("--since", "2020-01-03", "--until", "2020-01-03"), [2]),
        (("--max-nodata", "0.05"), [0, 1, 2, 3]),
        (("--split", "train", "--since", "2020-01-05", "--max-nodata", "0.07"), [4, 5]),
        ((), list(range(12))),
    ],
)
def test_every_choice(
    store: Path, tmp_path: Path, options: tuple[str, ...], expected: list[int]
) -> None:
    assert run("subset", store, "--output", tmp_path / "new", *options) == 0
    whole, new = open_store(store), open_store(tmp_path / "new")
    assert numbers(new) == expected
    for number, found in zip(expected, new, strict=True):
        assert_same(found, whole[number])
    assert new.index["split"].tolist() == whole.index["split"][expected].tolist()
    assert verify(tmp_path / "new") == []


def test_ids_in_a_file(store: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("optical/007\n\noptical/002 \n")
    assert run("subset", store, "--output", tmp_path / "new", "--ids", tmp_path / "ids.txt") == 0
    assert numbers(open_store(tmp_path / "new")) == [2, 7]


def test_groups_are_whole_and_grow(store: Path, tmp_path: Path) -> None:
    drawn = []
    for count in (2, 3, 99):
        assert run("subset", store, "--output", tmp_path / f"{count}", "--groups", count) == 0
        new = open_store(tmp_path / f"{count}")
        drawn.append(set(new.index["group"].tolist()))
        assert len(new) == 2 * len(drawn[-1])
    assert drawn[0] < drawn[1] < drawn[2]
    assert [len(locations) for locations in drawn] == [2, 3, 6]


def test_unknown_coordinates_and_time_are_in_no_box_and_no_period(tmp_path: Path) -> None:
    source(tmp_path / "old", [sample(1), sample(2, time=None, lonlat=None)])
    for n, options in enumerate(
        (
            ("--bbox", "-180", "-90", "180", "90"),
            ("--since", "1900-01-01"),
            ("--until", "2100-01-01"),
        )
    ):
        assert run("subset", tmp_path / "old", "--output", tmp_path / f"{n}", *options) == 0
        assert numbers(open_store(tmp_path / f"{n}")) == [1]


def test_statistics_and_labels_are_those_of_the_new_store(store: Path, tmp_path: Path) -> None:
    assert run("subset", store, "--output", tmp_path / "new", "--match", "*/003", "*/009") == 0
    manifest, chosen = open_store(tmp_path / "new").manifest, [sample(3), sample(9)]
    values = [
        chosen[0].pixels[band][chosen[0].pixels[band] != -1] for band in range(2)
    ]  # 9 is in split val
    assert manifest["statistics"]["optical"]["mean"] == [
        pytest.approx(band.mean(), rel=1e-12) for band in values
    ]
    codes, counts = np.unique([one.labels["cover"] for one in chosen], return_counts=True)
    assert manifest["labels"]["cover"]["values"] == dict(
        zip(map(str, codes.tolist()), counts.tolist(), strict=True)
    )
    assert manifest["labels"]["class"] == {"dtype": "int64", "shape": [], "values": {"0": 2}}


def test_provenance(store: Path, tmp_path: Path) -> None:
    assert (
        run(
            "subset", store, "--output", tmp_path / "new", "--split", "val", "--since", "2020-01-10"
        )
        == 0
    )
    whole, archive = open_store(store), open_store(tmp_path / "new").manifest["archive"]
    assert (archive["name"], archive["reader"], archive["licence"]) == (
        "subset of archive of optical",
        "subset",
        "free",
    )
    assert archive["sources"] == [
        {
            "content_sha256": whole.content_hash,
            "name": "optical",
            "archive": whole.manifest["archive"],
            "found": {},
        }
    ]
    assert archive["options"] == {
        "split": ["val"],
        "since": "2020-01-10",
        "format": "array-record",
        "shard_mb": 0.0005,
    }
    assert str(tmp_path) not in (tmp_path / "new" / "manifest.json").read_text()


@pytest.mark.parametrize("store_format", FORMATS)
def test_formats(store: Path, tmp_path: Path, store_format: str) -> None:
    assert run("subset", store, "--output", tmp_path / "new", "--format", store_format) == 0
    assert (
        run("subset", tmp_path / "new", "--output", tmp_path / "back", "--format", "array-record")
        == 0
    )
    assert verify(tmp_path / "new") == verify(tmp_path / "back") == []
    assert open_store(tmp_path / "new").format == store_format
    for one, two, expected in zip(
        open_store(tmp_path / "new"), open_store(tmp_path / "back"), open_store(store), strict=True
    ):
        assert_same(one, expected)
        assert_same(two, expected)


@pytest.mark.parametrize("store_format", FORMATS)
def test_a_store_without_checksums_gets_them(
    store: Path, tmp_path: Path, store_format: str
) -> None:
    old = Path(shutil.copytree(store, tmp_path / "old"))
    change_index(old, without_checksums)
    for source, new in ((store, "expected"), (old, "new")):
        assert run("subset", source, "--output", tmp_path / new, "--format", store_format) == 0
    expected, found = open_store(tmp_path / "expected").index, open_store(tmp_path / "new").index
    for name in CHECKSUMS:
        assert (
            (name in expected)
            == (name in found)
            == (name == "record_crc32c" or "zarr" in store_format)
        )
        if name in expected:
            np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_stores_that_convert_did_not_write(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_store(tmp_path / "bare", [sample(0)])
    for words in (["subset", tmp_path / "bare"], ["merge", tmp_path / "bare", tmp_path / "bare"]):
        assert run(*words, "--output", tmp_path / "new") == 1
        assert "manifest.json: has no '" in capsys.readouterr().err


def test_workers_change_nothing(store: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        assert (
            main(
                [
                    "subset",
                    str(store),
                    "--output",
                    str(tmp_path / name),
                    "--workers",
                    str(workers),
                    "--shard-mb",
                    "0.0005",
                ]
            )
            == 0
        )
    assert tiny_archives.files(tmp_path / "one") == tiny_archives.files(tmp_path / "two")


def test_a_scene_that_is_split_by_pixel(tmp_path: Path) -> None:
    labels = {
        "cover": np.arange(36, dtype=np.uint8).reshape(6, 6) % 5,
        "cover.split": np.arange(36, dtype=np.uint8).reshape(6, 6) % 4,
    }
    source(tmp_path / "old", [sample(0), sample(1, labels=labels)], ["train", "pixel"])
    assert run("subset", tmp_path / "old", "--output", tmp_path / "new", "--split", "pixel") == 0
    assert open_store(tmp_path / "new").manifest["pixels"]["counts"] == {
        "cover": {"train": 9, "val": 9, "test": 9}
    }
    assert run("subset", tmp_path / "old", "--output", tmp_path / "train", "--split", "train") == 0
    assert len(open_store(tmp_path / "train")) == 2  # it belongs to every split


# --------------------------------------------------------------- subset: refusals and interruptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--split", "test"), "no sample has --split 'test'; expected one of train, val"),
        (("--sensor", "radar"), "no sample has --sensor 'radar'; expected one of optical"),
        (("--match", "a*"), "--match leaves none of 12 samples"),
        (("--split", "val", "--until", "2020-01-02"), "--until leaves none of 4 samples"),
        (("--bbox", "0", "10", "20", "-10"), "expected west, south, east and north"),
        (("--groups", "0"), "--groups 0; expected 1 or more"),
    ],
)
def test_choices_that_leave_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture, options: tuple[str, ...], words: str
) -> None:
    assert run("subset", store, "--output", tmp_path / "new", *options) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_unknown_ids(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "ids.txt").write_text("optical/007\noptical/700\n")
    assert run("subset", store, "--output", tmp_path / "new", "--ids", tmp_path / "ids.txt") == 1
    assert "ids.txt: 1 ids are not in" in capsys.readouterr().err


def test_the_source_is_never_written_to(store: Path, capsys: pytest.CaptureFixture) -> None:
    before = tiny_archives.files(store)
    for output in (store, store / "new", store.parent):
        assert run("subset", store, "--output", output) == 1
        assert "overlaps the input store" in capsys.readouterr().err
    assert tiny_archives.files(store) == before


def test_a_folder_of_something_else(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert run("subset", store, "--output", tmp_path) == 1
    assert "neither a store nor an unfinished one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_interrupted_then_resumed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    new, written = tmp_path / "new", []

    def dies_at_the_third(task: shard_task.Task) -> tuple[int, int]:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(task.number)
        return shard_task.convert_shard(task)

    monkeypatch.setattr(rewrite, "convert_shard", dies_at_the_third)
    assert run("subset", store, "--output", new, "--split", "train") == 130
    with pytest.raises(StoreError, match=r"no manifest.json"):
        open_store(new)
    monkeypatch.undo()
    assert run("subset", store, "--output", new, "--split", "val") == 1
    assert "was started with a different set of options" in capsys.readouterr().err
    kept = {path: path.stat().st_mtime_ns for path in (new / "shards").iterdir()}
    assert len(kept) == 2
    assert run("subset", store, "--output", new, "--split", "train") == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert run("subset", store, "--output", tmp_path / "at_once", "--split", "train") == 0
    assert tiny_archives.files(new) == tiny_archives.files(tmp_path / "at_once")


def test_resumed_after_an_older_version_that_noted_no_checksums(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_at_the_end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rewrite, "finalise_store", dies_at_the_end)
    assert run("subset", store, "--output", tmp_path / "new") == 130
    monkeypatch.undo()
    notes = sorted((tmp_path / "new" / shard_task.PARTIAL).glob("0*.json"))
    assert len(notes) > 1
    for note in notes:
        fields = json.loads(note.read_bytes())
        del fields["shard"]["record_crc32c"]
        note.write_text(json.dumps(fields))
    for output in ("new", "at_once"):
        assert run("subset", store, "--output", tmp_path / output) == 0
    assert tiny_archives.files(tmp_path / "new") == tiny_archives.files(tmp_path / "at_once")


def test_so_many_shards_that_nobody_could_open_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """It is said before anything is written, not after days."""
    monkeypatch.setattr(writer, "MAX_MANIFEST_BYTES", 3 * 220)
    assert run("subset", store, "--output", tmp_path / "new") == 1
    assert "shards, expected at most 3; give a --shard-mb that is" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.array_record"))


def test_again_and_with_other_options(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("subset", store, "--output", tmp_path / "new", "--split", "val") == 0
    before = tiny_archives.files(tmp_path / "new")
    assert run("subset", store, "--output", tmp_path / "new", "--split", "val") == 0
    assert "up to date" in capsys.readouterr().out
    assert run("subset", store, "--output", tmp_path / "new", "--split", "train") == 1
    assert "is a finished store of a different set of options" in capsys.readouterr().err
    assert tiny_archives.files(tmp_path / "new") == before


def test_a_damaged_source(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source(tmp_path / "old", [sample(n) for n in range(3)])
    shard = tmp_path / "old/shards/00000.array_record"
    data = open_store(tmp_path / "old").read(1)
    tiny_archives.flip(shard, shard.read_bytes().index(data) + len(data) // 2)
    assert run("subset", tmp_path / "old", "--output", tmp_path / "new") == 1
    assert "record 1 (id optical/001)" in capsys.readouterr().err
    assert not (tmp_path / "new" / "manifest.json").exists()


# ------------------------------------------------------------------ merge


def test_two_sensors_over_the_same_locations(store: Path, radar: Path, tmp_path: Path) -> None:
    assert run("merge", store, radar, "--output", tmp_path / "new") == 0
    assert verify(tmp_path / "new") == []
    new = open_store(tmp_path / "new")
    for found, expected in zip(new, [*open_store(store), *open_store(radar)], strict=True):
        assert_same(found, expected)
    assert (sorted(new.manifest["sensors"]), new.manifest["groups"], new.manifest["splits"]) == (
        ["optical", "radar"],
        6,
        {"train": 16, "val": 8},
    )
    for path in (store, radar):
        (sensor,) = open_store(path).manifest["statistics"]
        assert new.manifest["statistics"][sensor] == open_store(path).manifest["statistics"][sensor]
    archive = new.manifest["archive"]
    assert archive["name"] == "archive of optical + archive of radar"
    assert [(one["name"], one["content_sha256"]) for one in archive["sources"]] == [
        (p.name, open_store(p).content_hash) for p in (store, radar)
    ]


def test_statistics_of_one_sensor_in_two_stores(tmp_path: Path) -> None:
    """Split in two and merged, a store has the same statistics to the last digit."""
    whole = source(tmp_path / "whole", [sample(n) for n in range(8)])
    for name, pattern in (("one", "*[0-3]"), ("two", "*[4-7]")):
        assert run("subset", whole, "--output", tmp_path / name, "--match", pattern) == 0
    assert run("merge", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "new") == 0
    new, old = open_store(tmp_path / "new").manifest, open_store(whole).manifest
    for entry in ("statistics", "labels", "sensors", "samples"):
        assert new[entry] == old[entry]
    assert (new["groups"], new["splits"]) == (4, {"train": 8})
    assert new["statistics"]["optical"]["count"] == [8 * 36 - 28, 8 * 36]


def test_ids_that_meet(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = source(tmp_path / "other", [sample(11), sample(20)], ["val", "val"])
    assert run("merge", store, other, "--output", tmp_path / "new") == 1
    said = capsys.readouterr().err
    for words in (str(store), str(other), "'optical/011'", "--prefix"):
        assert words in said
    assert run("merge", store, other, "--output", tmp_path / "new", "--prefix") == 0
    new = open_store(tmp_path / "new")
    assert new.index["id"][[0, 12]].tolist() == ["optical/optical/000", "other/optical/011"]
    assert new.manifest["groups"] == 6 + 2
    assert_same(new[12], sample(11), id="other/optical/011", group="other/place 05")
    assert verify(tmp_path / "new") == []


def test_a_location_in_two_splits(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = source(tmp_path / "other", [sample(11, RADAR)], ["train"])
    assert run("merge", store, other, "--output", tmp_path / "new") == 1
    said = capsys.readouterr().err
    for words in ("'place 05'", f"{store} in split val", f"{other} in train", "--prefix"):
        assert words in said


def test_sensors_of_one_name_have_to_be_one(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = source(
        tmp_path / "other", [sample(30)], sensors=[dataclasses.replace(OPTICAL, scale=1e-3)]
    )
    assert run("merge", store, other, "--output", tmp_path / "new") == 1
    said = capsys.readouterr().err
    for words in (str(store), str(other), "sensor 'optical' has a different scale"):
        assert words in said


def test_labels_of_one_name_have_to_be_of_one_kind(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = source(tmp_path / "other", [sample(30, labels={"cover": np.array(2, np.uint8)})])
    assert run("merge", store, other, "--output", tmp_path / "new") == 1
    assert "label 'cover' has a different shape" in capsys.readouterr().err


def test_merge_needs_two_stores(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("merge", store, "--output", tmp_path / "new") == 1
    assert "two or more stores" in capsys.readouterr().err


def test_stores_of_convert(tmp_path: Path) -> None:
    """Provenance of real conversions nests: archive, store, subset, merge."""
    for name in ("spectral-earth", "geotiff"):
        options = layouts.write(name, tmp_path / "archive" / name)
        words = [
            word
            for key, value in options.items()
            for word in (
                f"--{key.replace('_', '-')}",
                *(value if isinstance(value, tuple) else [value]),
            )
        ]
        assert (
            run(
                "convert",
                name,
                "--input",
                tmp_path / "archive" / name,
                "--output",
                tmp_path / name,
                *words,
            )
            == 0
        )
    assert run("subset", tmp_path / "geotiff", "--output", tmp_path / "val", "--split", "val") == 0
    assert (
        run(
            "merge",
            tmp_path / "spectral-earth",
            tmp_path / "val",
            "--output",
            tmp_path / "new",
            "--format",
            "zarr",
            "--prefix",
        )
        == 0
    )
    assert verify(tmp_path / "new") == []
    sources = open_store(tmp_path / "new").manifest["archive"]["sources"]
    assert sources[0]["archive"]["reader"] == "spectral-earth"
    assert sources[1]["archive"]["sources"][0]["archive"] == json.loads(
        json.dumps(open_store(tmp_path / "geotiff").manifest["archive"])
    )


def test_the_hash_alone_decides_which_locations_are_drawn() -> None:
    groups = np.array(["a", "b", "c", "d", "e"])
    drawn = set(groups[subset._in_groups(groups, 2)])
    assert set(groups[::-1][subset._in_groups(groups[::-1], 2)]) == drawn
