"""`verify` finds and names every damage, and finds none in an intact store."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from tiny_store import change_index

from data_prep.__main__ import main
from data_prep.verify import verify
from eo_jax.data import open_store
from eo_jax.data.store.files import sha256_file
from eo_jax.data.store.manifest import content_sha256
from eo_jax.data.store.writer import write_shard


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four shards with labels, two splits and one reject."""
    folder = tmp_path_factory.mktemp("verify")
    archive = tiny_archives.spectral_earth(folder / "archive", "landuse")
    tiny_archives.write(archive / "enmap" / "0000011" / "00009.tif", tiny_archives.pixels(0, 201))
    options = (
        "--labels",
        "landuse",
        "--val",
        "0000007/*",
        "--skip-bad",
        "--shard-mb",
        "1",
        "--workers",
        "1",
    )
    assert (
        main(
            [
                "convert",
                "spectral-earth",
                "--input",
                str(archive),
                "--output",
                str(folder / "store"),
                *options,
            ]
        )
        == 0
    )
    return folder / "store"


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def rewrite(store: Path, **changes: object) -> None:
    """Changes the manifest and signs it again, like a careful attacker."""
    manifest = json.loads((store / "manifest.json").read_bytes()) | changes
    manifest["content_sha256"] = content_sha256(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def replace_record(store: Path, **changes: object) -> None:
    """Rewrites the first shard with its first sample changed, and puts its new hash and checksum
    into manifest and index.
    """
    opened = open_store(store)
    shards = opened.manifest["shards"]
    samples = [opened[i] for i in range(shards[0]["samples"])]
    samples[0] = dataclasses.replace(samples[0], **changes)
    entry = write_shard(store, 0, opened.format, len(samples), samples)
    checksums = entry.pop("record_crc32c")
    change_index(
        store, lambda columns: columns["record_crc32c"].put(range(len(samples)), checksums)
    )
    shards[0] |= entry
    rewrite(store, shards=shards)


def test_intact_store(whole: Path, capsys: pytest.CaptureFixture) -> None:
    before = tiny_archives.files(whole)
    assert main(["verify", str(whole), "--workers", "2"]) == 0
    assert "6 records in 3 shards are intact" in capsys.readouterr().out
    assert tiny_archives.files(whole) == before


def test_every_file_is_guarded(store: Path) -> None:
    rng = np.random.default_rng(0)
    original = tiny_archives.files(store)
    assert set(original) == {
        "manifest.json",
        "index.npz",
        "rejects.txt",
        *(f"shards/0000{n}.array_record" for n in range(3)),
    }
    for name, data in original.items():
        for position in (0, len(data) // 2, len(data) - 1, *rng.integers(0, len(data), 5)):
            tiny_archives.flip(store / name, int(position), int(rng.integers(8)))
            assert verify(store), f"bit of byte {position} of {name}"
            (store / name).write_bytes(data)
    assert verify(store) == []


def test_every_byte_of_the_manifest_is_guarded(store: Path) -> None:
    file = store / "manifest.json"
    original = file.read_bytes()
    for position in np.random.default_rng(1).integers(0, len(original), 300).tolist():
        tiny_archives.flip(file, position, position % 8)
        assert verify(store), position
        file.write_bytes(original)


def test_same_manifest_in_other_bytes(store: Path) -> None:
    file = store / "manifest.json"
    file.write_bytes(file.read_bytes() + b" ")
    (problem,) = verify(store)
    assert "manifest.json" in problem and "is not what was written" in problem


def test_damaged_record_is_named(store: Path, capsys: pytest.CaptureFixture) -> None:
    reader = open_store(store)
    data = (store / "shards" / "00001.array_record").read_bytes()
    tiny_archives.flip(
        store / "shards" / "00001.array_record", data.rindex(reader.read(3)[:60]) + 20000
    )
    assert main(["verify", str(store), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "shards/00001.array_record: SHA-256" in lines[0]
    assert "shards/00001.array_record record 1 (id 0000007/00003)" in lines[1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "x"}, "id"),
        ({"group": "x"}, "group"),
        ({"time": 5}, "time"),
        ({"lonlat": (1.0, 2.0)}, "lonlat"),
    ],
)
def test_record_that_contradicts_the_index(store: Path, change: dict, field: str) -> None:
    replace_record(store, **change)
    (problem,) = verify(store)
    assert "shards/00000.array_record record 0 (id 0000001/00001)" in problem
    assert f"{field} is" in problem


def test_record_of_another_shape(store: Path) -> None:
    replace_record(store, pixels=np.ones((202, 8, 8), np.int16))
    assert any("shape is (202, 8, 8)" in problem for problem in verify(store))


def test_records_that_contradict_the_statistics(store: Path) -> None:
    sample = open_store(store)[0]
    pixels = sample.pixels.copy()
    pixels[100, 20, 20] += 1
    replace_record(store, pixels=pixels)
    (problem,) = verify(store)
    assert "statistics does not match the records" in problem


@pytest.mark.parametrize(
    ("name", "value"), [("splits", {"train": 6}), ("groups", 3), ("labels", {})]
)
def test_manifest_that_contradicts_the_records(store: Path, name: str, value: object) -> None:
    rewrite(store, **{name: value})
    (problem,) = verify(store)
    assert f"{name} does not match the records" in problem


@pytest.mark.parametrize(
    "name", ["manifest.json", "index.npz", "rejects.txt", "shards/00002.array_record"]
)
def test_missing_file(store: Path, name: str) -> None:
    (store / name).unlink()
    problems = verify(store)
    assert len(problems) == 1 and name in problems[0]


@pytest.mark.parametrize("outside", ["../secret", "absolute"])
@pytest.mark.parametrize("field", ["rejects", "pixels", "shards"])
def test_files_outside_the_store_are_refused(store: Path, field: str, outside: str) -> None:
    secret = store.parent / "secret"
    secret.write_bytes(b"of somebody else")
    name = str(secret) if outside == "absolute" else outside
    entry = {"array": "a", "file": name, "bytes": 16, "samples": 1, "sha256": sha256_file(secret)}
    shards = open_store(store).manifest["shards"]
    rewrite(
        store,
        **{field: [shards[0] | {"pixels": [entry]}, *shards[1:]] if field == "shards" else entry},
    )
    (problem,) = verify(store)
    assert "outside the store" in problem and repr(name) in problem


@pytest.mark.parametrize(
    "entry", [7, ["rejects.txt"], {"file": "rejects.txt"}, {"file": 5, "sha256": ""}]
)
def test_manifest_that_describes_no_file(store: Path, entry: object) -> None:
    rewrite(store, rejects=entry)
    (problem,) = verify(store)
    assert "manifest.json: not a manifest (field 'rejects" in problem


@pytest.mark.parametrize("format", ["zarr", "zarr-raw"])
def test_arrays_of_a_zarr_store(format: str, tmp_path: Path) -> None:
    tiny_archives.spectral_earth(tmp_path / "archive")
    options = ("--format", format, "--workers", "1")
    assert (
        main(
            [
                "convert",
                "spectral-earth",
                "--input",
                str(tmp_path / "archive"),
                "--output",
                str(tmp_path / "store"),
                *options,
            ]
        )
        == 0
    )
    assert verify(tmp_path / "store") == []
    ((name, entry),) = open_store(tmp_path / "store").manifest["arrays"].items()
    for arrays in (
        {},
        {"other": entry},
        {name: entry, "other": entry},
        {name: entry | {"sha256": "0" * 64}},
    ):
        rewrite(tmp_path / "store", arrays=arrays)
        (problem,) = verify(tmp_path / "store")
        assert "manifest.json: arrays does not match the samples in the index" in problem


def test_truncated_shard(store: Path) -> None:
    file = store / "shards" / "00000.array_record"
    file.write_bytes(file.read_bytes()[:-1])
    assert "00000.array_record" in verify(store)[0]


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 1
    assert "no such store" in capsys.readouterr().out
