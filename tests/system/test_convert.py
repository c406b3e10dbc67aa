"""The converter: the same bytes whatever happens, and one clear line where it cannot continue."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives

from benchmarks import codec
from data_prep.__main__ import main
from data_prep.conversion import finalise, shard_task, splits
from data_prep.jobs import executors
from data_prep.reader import File, Item
from data_prep.statistics.moments import BandSums
from eo_jax.data import open_store

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "data_prep", "convert"]
SMALL = ("--shard-mb", "1", "--workers", "1")  # two patches per shard


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tiny_archives.spectral_earth(tmp_path / "archive", "landuse")


def run(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def run_earth(archive: Path, store: Path, *more: object) -> int:
    return run("spectral-earth", "--input", archive, "--output", store, *SMALL, *more)


def fails(capsys: pytest.CaptureFixture, status: int, *words: str) -> None:
    """Asserts that the command failed with one line that contains all words."""
    assert status == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    for word in words:
        assert word in message


# ------------------------------------------------------------------ what a store holds


def test_store_holds_the_archive(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_earth(archive, tmp_path / "store", "--labels", "landuse", "--val", "0000007/*") == 0
    store = open_store(tmp_path / "store")
    assert [sample.id for sample in store] == [
        f"{location}/{scene}"
        for location, scenes in tiny_archives.LOCATIONS.items()
        for scene in scenes
    ]
    for sample in store:
        np.testing.assert_array_equal(
            sample.pixels, tiny_archives.read(archive / "enmap" / f"{sample.id}.tif")
        )
    assert store.index["split"].tolist() == ["train"] * 3 + ["val"] * 2 + ["train"] * 2
    assert store.manifest["splits"] == {"train": 5, "val": 2} and store.manifest["groups"] == 5
    assert len(store.manifest["shards"]) == 4
    assert f"python -m data_prep inspect {tmp_path / 'store'}" in capsys.readouterr().out


def test_statistics_are_those_of_the_train_split(archive: Path, tmp_path: Path) -> None:
    run_earth(archive, tmp_path / "store", "--val", "0000007/*")
    store = open_store(tmp_path / "store")
    cubes = np.stack(
        [store[i].pixels for i in np.flatnonzero(store.index["split"] == "train")]
    ).astype(float)
    cubes[cubes == -32768] = np.nan
    moments = store.manifest["statistics"]["enmap"]
    expected = {"mean": np.nanmean, "std": np.nanstd, "min": np.nanmin, "max": np.nanmax}
    for name, function in expected.items():
        np.testing.assert_allclose(moments[name], function(cubes, axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(moments["nodata_share"], np.isnan(cubes).mean((0, 2, 3)), rtol=1e-12)
    assert moments["count"] == np.isfinite(cubes).sum((0, 2, 3)).tolist()


def test_label_classes_are_counted(archive: Path, tmp_path: Path) -> None:
    run_earth(archive, tmp_path / "store", "--labels", "landuse")
    maps = np.stack([tiny_archives.read(path) for path in (archive / "landuse").rglob("*.tif")])
    values, counts = np.unique(maps, return_counts=True)
    about = open_store(tmp_path / "store").manifest["labels"]["landuse"]
    assert about == {
        "dtype": "uint8",
        "shape": "map",
        "values": {str(value): int(count) for value, count in zip(values, counts, strict=True)},
    }


def test_labels_of_two_types(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    label = archive / "landuse" / "0000010" / "00001.tif"
    with rasterio.open(label) as file:
        place = file.transform
    tiny_archives.write(label, np.ones((1, 32, 32), np.uint16), transform=place)
    fails(
        capsys,
        run_earth(archive, tmp_path / "store", "--labels", "landuse"),
        "'landuse'",
        "uint8",
        "uint16",
    )


def test_exact_sums_do_not_depend_on_order() -> None:
    rng = np.random.default_rng(0)
    parts = [
        BandSums.of(rng.normal(1000, 300, (3, 8, 8)).astype(np.float32), np.zeros((3, 8, 8), bool))
        for _ in range(20)
    ]
    forward, backward = (
        BandSums.of(np.ones((3, 8, 8), np.float32), np.zeros((3, 8, 8), bool)) for _ in range(2)
    )
    for one, other in zip(parts, reversed(parts), strict=True):
        forward.add(one)
        backward.add(other)
    assert forward.moments() == backward.moments()
    assert BandSums.from_json(json.loads(json.dumps(forward.to_json()))) == forward


def test_manifest_names_no_machine(archive: Path, tmp_path: Path) -> None:
    run_earth(archive, tmp_path / "store", "--labels", "landuse")
    text = (tmp_path / "store" / "manifest.json").read_text()
    assert str(tmp_path) not in text and "workers" not in text
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "index.npz",
        "manifest.json",
        "shards",
    ]


def test_potsdam(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "enmap" / "potsdam_l2a_tiles"
    assert (
        run(
            "enmap-tiles",
            "--input",
            root,
            "--output",
            tmp_path / "store",
            "--val-fraction",
            "0.3",
            "--workers",
            "1",
        )
        == 0
    )
    for sample in open_store(tmp_path / "store"):
        original = tiny_archives.read(root / "images" / f"{sample.id}.tif")
        numbers = open_store(tmp_path / "store").manifest["sensors"]["enmap"]["bands"]["name"]
        np.testing.assert_array_equal(
            sample.pixels, original[[int(name[1:]) - 1 for name in numbers]]
        )


def test_codec_halves_real_tiles(sample_data: Path) -> None:
    figures = codec.measure(codec.load(sample_data / "enmap" / "potsdam_l2a_tiles", 10))
    ratios = {row["codec"]: row["ratio"] for row in figures}
    assert ratios["eo_jax record: difference, LZ4"] >= 2.0
    assert ratios["raw copy (lower bound)"] == 1.0


# ----------------------------------------------------------------- the same bytes, whatever happens


def test_rerun_says_up_to_date(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_earth(archive, tmp_path / "store")
    before = tiny_archives.files(tmp_path / "store")
    (tmp_path / "store" / ".partial").mkdir()  # as left by a kill after the last step
    capsys.readouterr()
    assert run_earth(archive, tmp_path / "store") == 0
    assert "up to date" in capsys.readouterr().out
    assert (
        tiny_archives.files(tmp_path / "store") == before
        and not (tmp_path / "store" / ".partial").exists()
    )


def test_folder_and_name_do_not_matter(archive: Path, tmp_path: Path) -> None:
    """Two archives with the same files give the same store, with any number of workers."""
    run_earth(archive, tmp_path / "one", "--labels", "landuse")
    archive.rename(tmp_path / "moved")
    run_earth(tmp_path / "moved", tmp_path / "two", "--labels", "landuse", "--workers", "2")
    assert tiny_archives.files(tmp_path / "one") == tiny_archives.files(tmp_path / "two")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_and_rerun_give_the_same_bytes(archive: Path, tmp_path: Path, workers: int) -> None:
    command = [
        *COMMAND,
        "spectral-earth",
        "--input",
        str(archive),
        "--labels",
        "landuse",
        *SMALL,
        "--workers",
        str(workers),
        "--output",
    ]
    run_earth(archive, tmp_path / "whole", "--labels", "landuse")
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], cwd=REPOSITORY, env=slowed(tmp_path)
    )
    wait_for(lambda: list((tmp_path / "killed").glob(".partial/0*.json")))
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    (tmp_path / "killed" / "shards" / ".00003.array_record.partial").write_bytes(b"half a shard")
    time.sleep(0.5)  # workers see that their parent is gone
    done = [
        tmp_path / "killed" / "shards" / f"{note.stem}.array_record"
        for note in (tmp_path / "killed").glob(".partial/0*.json")
    ]
    made = {shard: shard.stat().st_mtime_ns for shard in done}
    assert 0 < len(made) < 4
    subprocess.run(
        [*command, str(tmp_path / "killed")],
        cwd=REPOSITORY,
        env=environment(),
        check=True,
        capture_output=True,
    )
    assert tiny_archives.files(tmp_path / "killed") == tiny_archives.files(tmp_path / "whole")
    assert {shard: shard.stat().st_mtime_ns for shard in done} == made  # what was finished is kept


@pytest.mark.parametrize(
    ("sent", "workers"),
    [
        (signal.SIGINT, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
    ],
)
def test_interrupt_says_how_to_go_on(
    archive: Path, tmp_path: Path, sent: signal.Signals, workers: int
) -> None:
    command = [
        *COMMAND,
        "spectral-earth",
        "--input",
        str(archive),
        *SMALL,
        "--workers",
        str(workers),
        "--output",
    ]
    process = subprocess.Popen(
        [*command, str(tmp_path / "store")],
        cwd=REPOSITORY,
        env=slowed(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_interrupts,
    )
    wait_for(lambda: list((tmp_path / "store").glob(".partial/0*.json")))
    process.send_signal(sent)
    assert "same convert command resumes" in process.communicate()[1]
    assert process.returncode == 130
    assert not list((tmp_path / "store").rglob(".*.partial"))
    subprocess.run(
        [*command, str(tmp_path / "store")],
        cwd=REPOSITORY,
        env=environment(),
        check=True,
        capture_output=True,
    )
    run_earth(archive, tmp_path / "whole")
    assert tiny_archives.files(tmp_path / "store") == tiny_archives.files(tmp_path / "whole")


def test_killed_parent_leaves_no_worker(tmp_path: Path) -> None:
    script = tmp_path / "sleepers.py"
    script.write_text(
        "import os, sys, time\nfrom data_prep.jobs import executors\n"
        "def task(i):\n    open(f'{sys.argv[1]}/{os.getpid()}.pid', 'w').close()\n    "
        "time.sleep(60)\n"
        "if __name__ == '__main__':\n    list(executors.run(task, range(4), 2))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], cwd=REPOSITORY, env=environment()
    )
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_alive(int(path.stem)) for path in tmp_path.glob("*.pid")))


def test_damaged_shard_of_an_unfinished_store_is_made_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_earth(archive, tmp_path / "whole")
    stop_before_the_end(monkeypatch)
    with pytest.raises(SystemExit):
        run_earth(archive, tmp_path / "store")
    monkeypatch.undo()
    tiny_archives.flip(tmp_path / "store" / "shards" / "00001.array_record", 70000)
    (tmp_path / "store" / "shards" / "00002.array_record").unlink()
    assert run_earth(archive, tmp_path / "store") == 0
    assert tiny_archives.files(tmp_path / "store") == tiny_archives.files(tmp_path / "whole")


def test_finished_shards_are_not_made_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_before_the_end(monkeypatch)
    with pytest.raises(SystemExit):
        run_earth(archive, tmp_path / "store")
    monkeypatch.undo()
    monkeypatch.setattr(shard_task, "_write_shard", lambda task: pytest.fail("made again"))
    assert run_earth(archive, tmp_path / "store") == 0


def stop_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise SystemExit

    monkeypatch.setattr(finalise, "finish_store", stop)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def take_interrupts() -> None:
    """Undoes what a shell does to the jobs that it runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def slowed(folder: Path) -> dict[str, str]:
    """An environment in which every patch takes 0.15 s, so that a signal arrives in between."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import time, eo_jax.data.store.record as record\nfast = record.encode\n"
        "def slow(sample):\n    time.sleep(0.15)\n    return fast(sample)\nrecord.encode = slow\n"
    )
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}"}


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


# ------------------------------------------------------------------ other input or options


def test_finished_store_of_other_options(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_earth(archive, tmp_path / "store")
    before = tiny_archives.files(tmp_path / "store")
    capsys.readouterr()
    fails(
        capsys,
        run_earth(archive, tmp_path / "store", "--val", "0000001/*"),
        str(tmp_path / "store"),
        "set of options (val: [] there",
        "--output",
    )
    (archive / "enmap" / "0000001" / "00002.tif").unlink()
    fails(capsys, run_earth(archive, tmp_path / "store"), "list of files")
    assert tiny_archives.files(tmp_path / "store") == before


def test_unfinished_store_of_other_options(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stop_before_the_end(monkeypatch)
    with pytest.raises(SystemExit):
        run_earth(archive, tmp_path / "store")
    monkeypatch.undo()
    capsys.readouterr()
    fails(
        capsys,
        run_earth(archive, tmp_path / "store", "--shard-mb", "2"),
        "started with a different",
        "(shard_mb: 1.0 there, 2.0 here)",
        "--output",
    )
    os.utime(archive / "enmap" / "0000001" / "00002.tif", ns=(1, 1))
    fails(capsys, run_earth(archive, tmp_path / "store"), "version of the files")


def test_folder_of_something_else(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    fails(
        capsys,
        run_earth(archive, tmp_path / "home"),
        str(tmp_path / "home"),
        "neither a store",
        "--output",
    )
    assert tiny_archives.files(tmp_path / "home") == {"thesis.txt": b"precious"}


def test_two_at_once(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "store" / ".partial").mkdir(parents=True)
    with open(tmp_path / "store" / ".partial" / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(capsys, run_earth(archive, tmp_path / "store"), "another process")


# ------------------------------------------------------------------ bad files


def spoil(archive: Path) -> None:
    first, third = (archive / "enmap" / name for name in ("0000001/00001.tif", "0000007/00003.tif"))
    first.write_bytes(first.read_bytes()[:5000])
    tiny_archives.write(third, tiny_archives.pixels(0, 201))


def test_bad_file_stops_and_leaves_no_store(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny_archives.write(archive / "enmap" / "0000007" / "00003.tif", tiny_archives.pixels(0, 201))
    fails(
        capsys,
        run_earth(archive, tmp_path / "store"),
        str(archive / "enmap/0000007/00003.tif"),
        "201 bands",
    )
    assert not (tmp_path / "store" / "manifest.json").exists()
    assert not list((tmp_path / "store").rglob(".*.partial"))


def test_skip_bad(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spoil(archive)
    for name, workers in (("one", "1"), ("two", "2")):
        assert run_earth(archive, tmp_path / name, "--skip-bad", "--workers", workers) == 0
    store = open_store(tmp_path / "one")
    assert len(store) == 5
    lines = (tmp_path / "one" / "rejects.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["0000001/00001", "0000007/00003"]
    assert "cannot be read as GeoTIFF" in lines[0] and "201 bands" in lines[1]
    assert str(tmp_path) not in "".join(lines)
    assert store.manifest["rejects"]["samples"] == 2
    assert tiny_archives.files(tmp_path / "one") == tiny_archives.files(tmp_path / "two")


def test_skip_bad_with_an_empty_shard(archive: Path, tmp_path: Path) -> None:
    """The third shard has no valid file."""
    for name in ("0000007/00004", "0000010/00001"):
        (archive / "enmap" / f"{name}.tif").write_bytes(b"II*\0")
    assert run_earth(archive, tmp_path / "store", "--skip-bad") == 0
    store = open_store(tmp_path / "store")
    assert [shard["file"] for shard in store.manifest["shards"]] == [
        f"shards/0000{n}.array_record" for n in (0, 1, 3)
    ]
    assert [sample.id for sample in store][-1] == "0000011/00009"
    assert sorted(path.name for path in (tmp_path / "store" / "shards").iterdir()) == [
        f"0000{n}.array_record" for n in (0, 1, 3)
    ]


def test_all_bad(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for path in (archive / "enmap").rglob("*.tif"):
        path.write_bytes(b"II*\0")
    fails(
        capsys,
        run_earth(archive, tmp_path / "store", "--skip-bad"),
        "0000001/00001.tif",
        "7 images",
        "all of which are bad",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--val", "north/*"), ("'north/*'", "none of the 7 ids", "0000001/00001")),
        (("--val", "0000001/*", "--val-fraction", "0.5"), ("--val was given with --val-fraction",)),
        (("--val", "0000001/00001"), ("1 locations in both splits", "'0000001'", "0000001/*")),
        (("--val", "*"), ("all 5 locations go to 'val'",)),
        (
            ("--val", "0000001/*", "--split", "blocks:9"),
            ("--val names locations and --split blocks:KM draws them",),
        ),
        (("--dtype", "uint8"), ("no formula is published for enmap",)),
        (("--memory", "0.1"), ("--memory 0.1: one worker needs",)),
    ],
)
def test_contradicting_options(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture, options: tuple, words: tuple
) -> None:
    fails(capsys, run_earth(archive, tmp_path / "store", *options), *words)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("share", "locations"), [("0.000001", 1), ("0.999999", 4)])
def test_a_fraction_leaves_no_split_empty(
    archive: Path, tmp_path: Path, share: str, locations: int
) -> None:
    assert run_earth(archive, tmp_path / "store", "--val-fraction", share) == 0
    index = open_store(tmp_path / "store").index
    assert len(set(index["group"][index["split"] == "val"])) == locations


def test_options_against_the_archives_lists(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (archive / "splits").mkdir()
    names = sorted(
        path.relative_to(archive / "enmap").as_posix()
        for path in (archive / "enmap").rglob("*.tif")
    )
    (archive / "splits" / "train.txt").write_text("\n".join(names))
    fails(
        capsys,
        run_earth(archive, tmp_path / "store", "--val-fraction", "0.5"),
        "its own split",
        "--val-fraction",
        "--split blocks:KM",
    )


def test_no_such_input(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fails(
        capsys,
        run_earth(tmp_path / "nowhere", tmp_path / "store"),
        str(tmp_path / "nowhere"),
        "no such folder",
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--val-fraction", "1"),
        ("--shard-mb", "0"),
        ("--workers", "-1"),
        ("--worker", "x"),
        ("--labels",),
        ("--trust-product-order",),
    ],
)
def test_usage_errors_exit_with_2(tmp_path: Path, options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_earth(tmp_path, tmp_path / "store", *options)
    assert caught.value.code == 2


def test_a_fraction_keeps_locations_together_and_stable() -> None:
    items = [
        Item(f"{location}/{date}", str(location), (File("image", ""),))
        for location in range(2000)
        for date in range(2)
    ]
    few = {item.id: item.split for item in splits.assign(items[:1000], (), 0.2)}
    many = {item.id: item.split for item in splits.assign(items, (), 0.2)}
    assert few.items() <= many.items()
    assert all(many[f"{location}/0"] == many[f"{location}/1"] for location in range(2000))
    assert sum(split == "val" for split in many.values()) / 4000 == pytest.approx(0.2, abs=0.03)


def test_dry_run_writes_nothing(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_earth(archive, tmp_path / "store", "--dry-run", "--val-fraction", "0.5") == 0
    said = capsys.readouterr().out
    assert (
        "7 samples of 5 locations" in said and "4 shards" in said and "nothing was written" in said
    )
    assert not (tmp_path / "store").exists()


# ------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 640 KB: too small for the store of the archive."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(
            "may not mount a small disk here; test_no_room_for_a_shard covers the same message"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(
    archive: Path, small_disk: Path, capsys: pytest.CaptureFixture, workers: int
) -> None:
    fails(
        capsys,
        run_earth(archive, small_disk / "store", "--workers", workers),
        str(small_disk / "store"),
        "cannot be written",
        "Free space",
    )
    assert not list((small_disk / "store").rglob(".*.partial"))
    assert not (small_disk / "store" / "manifest.json").exists()


def test_no_room_for_a_shard(archive: Path, tmp_path: Path) -> None:
    """A limit on file size, which any user may set, stands in for a full disk."""
    command = [
        *COMMAND,
        "spectral-earth",
        "--input",
        str(archive),
        *SMALL,
        "--output",
        str(tmp_path / "store"),
    ]

    def limit():
        return resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), preexec_fn=limit, capture_output=True, text=True
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "store") in line and "Free space" in line
    assert not list((tmp_path / "store").rglob(".*.partial"))


def test_no_room_for_the_manifest(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(finalise, "finish_store", full)
    fails(
        capsys,
        run_earth(archive, tmp_path / "store"),
        str(tmp_path / "store"),
        "No space left",
        "Free space",
    )
    monkeypatch.undo()
    assert run_earth(archive, tmp_path / "store") == 0


# ------------------------------------------------------------------ the command line


def test_commands_do_not_import_jax(archive: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom data_prep.__main__ import main\n"
        f"assert main(['convert', 'spectral-earth', '--input', {str(archive)!r}, '--output', "
        f"{str(tmp_path / 'store')!r}, '--workers', '1']) == 0\n"
        f"assert main(['verify', {str(tmp_path / 'store')!r}, '--workers', '1']) == 0\n"
        f"assert main(['inspect', {str(tmp_path / 'store')!r}, '--output', {str(tmp_path)!r}]) == "
        "0\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=environment(),
        check=True,
        capture_output=True,
    )


def test_help_of_the_commands_loads_no_gdal() -> None:
    script = (
        "import sys, data_prep.__main__\ntry:\n    data_prep.__main__.main(['--help'])\nfinally:\n "
        "   assert 'rasterio' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "example: python -m data_prep convert" in result.stdout


@pytest.mark.parametrize("command", ["convert", "verify", "inspect"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: python -m data_prep {command}" in capsys.readouterr().out


def test_killed_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="fewer --workers"):
        list(executors.run(os._exit, [9, 9], 2))
