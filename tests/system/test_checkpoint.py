"""A saved state comes back bit for bit; a checkpoint that cannot is one clear line."""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from run_results import end_of
from saved_states import CONFIG, files_of, flip, halve, like, save_two, state_of

from eo_jax import checkpoint
from eo_jax.checkpoint import (
    Checkpoints,
    DamagedError,
    DeletedError,
    Retention,
    leaf_hashes,
    set_damaged_aside,
    state_hash,
)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return save_two(tmp_path_factory.mktemp("two"))


@pytest.fixture
def saved(two, tmp_path) -> Path:
    """A workdir with checkpoints 2 and 5."""
    return shutil.copytree(two, tmp_path / "run")


def steps_on_disk(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


# --------------------------------------------------------------------------------------- round trip


def test_state_data_position_and_config_come_back(saved):
    checkpoints = Checkpoints(saved)
    state = checkpoints.newest().restore(like(state_of()))
    assert checkpoints.latest() == checkpoints.newest().manifest.step == 5
    assert leaf_hashes(state) == leaf_hashes(state_of())
    assert jax.tree.structure(state) == jax.tree.structure(state_of())
    assert checkpoints.newest().manifest.config == json.loads(json.dumps(CONFIG))


def test_bad_records_and_scores_come_back_but_no_score_that_is_not_finite(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    scores = {"eval/knn/accuracy": 0.1, "eval/knn/kappa": float("nan")}
    checkpoints.save(8, state_of(), CONFIG, {"s2": [17, 403]}, scores)
    checkpoints.wait()
    found = Checkpoints(tmp_path).newest().manifest
    assert found.bad_records == {"s2": [17, 403]}
    assert found.scores == {"eval/knn/accuracy": 0.1}


def test_load_needs_neither_model_nor_mesh(saved):
    config, step, params, carry = checkpoint.load(saved)
    assert (config["optim"]["lr"], step, carry) == (1e-3, 5, {"encoder": {}})
    assert all(isinstance(leaf, np.ndarray) for leaf in params.values())
    np.testing.assert_array_equal(params["kernel"], state_of()["params"]["kernel"])


def test_a_save_holds_what_was_there_although_the_next_step_reuses_the_memory(tmp_path):
    state = jax.tree.map(
        lambda leaf: jnp.zeros((256, 1024)) + leaf.sum(), {"params": state_of()["params"]}
    )
    before = leaf_hashes(state)
    advance = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    for _ in range(20):
        state = advance(state)
    checkpoints.wait()
    assert leaf_hashes({"params": checkpoint.load(tmp_path)[2]}) == before


def test_reading_leaves_a_save_in_progress_alone_and_does_not_list_it(saved):
    unfinished = saved / "checkpoints" / "9.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert Checkpoints(saved).latest() == 5
    assert unfinished.is_dir()


def test_a_folder_without_checkpoints_says_how_to_make_one(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"no checkpoint there; train first: python -m eo_jax\.train --config=\.\.\. "
        r"--workdir=",
    ):
        checkpoint.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_state_whose_paths_would_be_ambiguous_is_refused(tmp_path):
    state = {"a/b": jnp.zeros(2), "a": {"b": jnp.ones(2)}}
    with pytest.raises(ValueError, match=r"a key has a '/' in 'a/b'"):
        Checkpoints(tmp_path).save(1, state, {})


def test_a_manifest_of_the_first_format_is_read(saved):
    manifest = Checkpoints(saved).newest().manifest
    content = manifest.to_json() | {"format": 1, "next_batch": 5}
    del content["origin"], content["sha256"]
    content["sha256"] = checkpoint.manifest._sha256(content)
    assert checkpoint.manifest.from_json(json.dumps(content)) == manifest


# ------------------------------------------------------------------------------- another state


def changed(path: str, **leaf) -> dict:
    """What `state_of` is like, with another dtype or shape of one leaf."""
    shapes = like(state_of())
    if path == "step":
        return shapes | {"step": jax.ShapeDtypeStruct(**leaf, sharding=shapes["step"].sharding)}
    shapes["params"]["kernel"] = jax.ShapeDtypeStruct(**leaf, sharding=shapes["step"].sharding)
    return shapes


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        # Orbax would cast without a word: int32 16777217 becomes 16777216.0.
        (
            changed("step", shape=(), dtype=jnp.float32),
            r"leaf step is int32\[\], expected float32\[\]",
        ),
        (
            changed("params/kernel", shape=(12, 16), dtype=jnp.float32),
            r"leaf params/kernel is float32\[24, 16\], expected float32\[12, 16\]",
        ),
        (
            changed("params/kernel", shape=(24, 16), dtype=jnp.float32)
            | {"carry": {"queue": jax.ShapeDtypeStruct((3,), jnp.int8)}},
            r"leaf carry/queue is absent, expected int8\[3\]",
        ),
        (
            {k: v for k, v in like(state_of()).items() if k != "optimizer"},
            r"leaf optimizer/0/mu is bfloat16\[24, 16\], expected absent",
        ),
    ],
)
def test_a_state_of_another_dtype_shape_or_path_is_refused_by_its_first_leaf(
    saved, expected, message
):
    with pytest.raises(ValueError, match=rf"checkpoints/5: {message}; use the code that saved it"):
        Checkpoints(saved).newest().restore(expected)


# ------------------------------------------------------------------------------------------- damage


def restored(workdir: Path) -> dict[str, str]:
    return leaf_hashes(Checkpoints(workdir).newest().restore(like(state_of())))


def exported(workdir: Path) -> dict[str, str]:
    return leaf_hashes(Checkpoints(workdir).newest().arrays())


def outcome(read, workdir: Path) -> dict[str, str] | str:
    """What was read, or "refused" where an error names the checkpoint and a leaf or file in it."""
    try:
        return read(workdir)
    except DamagedError as error:
        assert "checkpoints/5: checkpoint cannot be restored (" in str(error)
        assert any(name in error.reason for name in ("leaf ", "state", "manifest/metadata"))
        assert len(str(error).splitlines()) == 1
        return "refused"


def effects(workdir: Path, damage: list[tuple[Path, int]]) -> list[str]:
    """Of each damage alone, a file and the bit of it to flip, on reading the checkpoint: "equal"
    or "refused".
    """
    intact, manifest = restored(workdir), Checkpoints(workdir).newest().manifest
    found = []
    for path, bit in damage:
        before = flip(path, bit)
        first, second = (outcome(read, workdir) for read in (restored, exported))
        path.write_bytes(before)
        assert first == second and first in (intact, "refused"), f"{path}, bit {bit}"
        found.append(first if first == "refused" else "equal")
    assert restored(workdir) == exported(workdir) == intact
    assert Checkpoints(workdir).newest().manifest == manifest
    return found


def random_bits(workdir: Path, count: int) -> list[tuple[Path, int]]:
    """Spread over all files of checkpoint 5."""
    rng, files = np.random.default_rng(), files_of(workdir, 5)
    return [
        (path, int(rng.integers(path.stat().st_size * 8)))
        for path in (files[n % len(files)] for n in range(count))
    ]


# Orbax leaves reads behind that end after an error.
orbax_leaves_reads_behind = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@orbax_leaves_reads_behind
def test_no_flipped_bit_is_restored_or_exported_in_silence(saved):
    """It is an error, or in a part of a file that says nothing of the state."""
    found = effects(saved, random_bits(saved, 26))
    assert found.count("refused") > 5


@pytest.mark.slow
@orbax_leaves_reads_behind
def test_none_of_many_flipped_bits_is_restored_or_exported_in_silence(saved):
    found = effects(saved, random_bits(saved, 400))
    assert found.count("refused") > 100 and found.count("equal") > 100


def test_a_bit_that_decompresses_is_found_by_the_checksum_of_its_array(saved):
    """zstd and Zarr have no checksum of their own: this is what loads in silence without ours."""
    largest = max(files_of(saved, 5), key=lambda path: path.stat().st_size)
    flip(largest, largest.stat().st_size * 4)  # in the middle of the kernel
    kernel = r"float32\[24, 16\] with checksum"
    for read in (restored, exported, checkpoint.load):
        with pytest.raises(
            DamagedError, match=rf"leaf params/kernel is {kernel} \w+, saved was {kernel} \w+\)"
        ):
            read(saved)


def test_damage_to_the_optimizer_alone_does_not_stop_an_export(saved):
    path = next(path for path in files_of(saved, 5) if path.name == "metadata")
    content = json.loads(path.read_text())
    content["leaves"]["optimizer/0/mu"][2] = "00000000"
    content.pop("sha256")
    path.write_text(json.dumps(content | {"sha256": checkpoint.manifest._sha256(content)}))
    assert checkpoint.load(saved)[1] == 5
    with pytest.raises(DamagedError, match="leaf optimizer/0/mu "):
        exported(saved)


@pytest.mark.parametrize("part", ["state", "manifest"])
def test_a_truncated_or_missing_file_is_one_line_with_the_way_out(saved, part):
    files = [path for path in files_of(saved, 5) if part in path.parts]
    halve(files)
    assert [outcome(read, saved) for read in (restored, exported)] == ["refused"] * 2
    for path in files:
        path.unlink()
    assert [outcome(read, saved) for read in (restored, exported)] == ["refused"] * 2


def test_a_checkpoint_of_an_earlier_version_has_no_manifest_and_is_refused(saved):
    shutil.rmtree(saved / "checkpoints" / "5" / "manifest")
    with pytest.raises(DamagedError, match=r"manifest/metadata is missing: .* earlier version"):
        exported(saved)


def test_a_checkpoint_in_the_folder_of_another_step_is_refused(saved):
    (saved / "checkpoints" / "5").rename(saved / "checkpoints" / "7")
    with pytest.raises(DamagedError, match=r"checkpoints/7: .*metadata is that of step 5"):
        exported(saved)


def test_a_file_that_may_not_be_read_is_not_called_damaged(saved, monkeypatch):
    def forbidden(*_):
        raise ValueError("PERMISSION_DENIED: Error opening d/1")

    monkeypatch.setattr(checkpoint.arrays, "read", forbidden)
    with pytest.raises(OSError, match=r"cannot be read .*PERMISSION_DENIED.* it may be intact"):
        set_damaged_aside(Checkpoints(saved))
    assert steps_on_disk(saved) == ["2", "5"]


def test_a_checkpoint_that_its_run_deletes_meanwhile_is_not_called_damaged(saved):
    known, unknown = (Checkpoints(saved).at(2) for _ in range(2))
    assert known.manifest.step == 2
    run = Checkpoints(saved, Retention(1))
    run.save(8, state_of(), CONFIG)
    run.wait()
    for reader in (known, unknown):
        with pytest.raises(DeletedError, match=r"checkpoints/2: deleted meanwhile by the run .*"):
            reader.arrays("params/")
    with pytest.raises(DeletedError):
        known.restore(like(state_of()))


# ----------------------------------------------------------------------------------- falling back


def test_the_newest_intact_checkpoint_is_found_and_damaged_newer_ones_are_set_aside(saved):
    halve(files_of(saved, 5))
    (line,) = set_damaged_aside(Checkpoints(saved))
    assert line.startswith("checkpoint 5 is damaged (manifest/metadata: ")
    assert line.endswith("checkpoints/5.damaged; resuming from checkpoint 2")
    assert steps_on_disk(saved) == ["2", "5.damaged"]
    assert Checkpoints(saved).latest() == 2 and restored(saved) == leaf_hashes(state_of(1))


def test_one_process_reads_what_it_restores_once_and_falls_back_where_that_is_damaged(
    saved, monkeypatch
):
    monkeypatch.setattr(checkpoint.arrays, "read", None)  # what reads arrays to compare them
    flip(largest := max(files_of(saved, 5), key=lambda path: path.stat().st_size), 8)
    flip(largest, largest.stat().st_size * 4)
    state, (line,) = checkpoint.restored(
        Checkpoints(saved), lambda found: found.restore(like(state_of()))
    )
    assert leaf_hashes(state) == leaf_hashes(state_of(1))
    assert line.endswith("checkpoints/5.damaged; resuming from checkpoint 2")
    assert checkpoint.restored(Checkpoints(saved), lambda found: found.step) == (2, [])


def test_what_was_set_aside_before_is_kept_and_the_step_can_be_saved_again(saved):
    for name in ("5.damaged", "5.damaged-2"):
        halve(files_of(saved, 5))
        assert name in set_damaged_aside(Checkpoints(saved))[0]
        checkpoints = Checkpoints(saved, Retention(2))
        checkpoints.save(5, state_of(0), CONFIG)
        checkpoints.wait()
    assert steps_on_disk(saved) == ["2", "5", "5.damaged", "5.damaged-2"]


def test_intact_checkpoints_and_none_at_all_change_nothing(saved, tmp_path):
    assert set_damaged_aside(Checkpoints(saved)) == []
    assert set_damaged_aside(Checkpoints(tmp_path / "none")) == []
    assert steps_on_disk(saved) == ["2", "5"]


def test_where_none_is_intact_all_are_named_and_nothing_is_renamed(saved):
    halve(files_of(saved, 5) + files_of(saved, 2))
    with pytest.raises(OSError, match=r"none is intact:\n.*checkpoints/5: .*\n.*checkpoints/2: "):
        set_damaged_aside(Checkpoints(saved))
    assert steps_on_disk(saved) == ["2", "5"]


# --------------------------------------------------------------------------- keeping and deleting


def test_only_what_a_rule_keeps_stays_on_the_disk(tmp_path):
    """Also where the run was resumed in between, with scores that only the manifests remember."""
    accuracy = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.6, 5: 0.7}
    for steps in ((1, 2, 3), (4, 5)):
        retention = Retention(newest=1, every=3, best="eval/knn/accuracy")
        checkpoints = Checkpoints(tmp_path, retention)
        for step in steps:
            scores = {"eval/knn/accuracy": accuracy[step]}
            checkpoints.save(step, {"a": jnp.ones(3)}, CONFIG, None, scores)
        checkpoints.wait()
    assert steps_on_disk(tmp_path) == ["2", "3", "5"]


def test_scores_that_come_late_are_those_of_the_checkpoint(saved):
    """Whoever reads the manifest then or later, and for what is kept."""
    accuracy = "eval/knn/accuracy"
    checkpoints = Checkpoints(saved, Retention(1, best=accuracy))
    checkpoints.add_scores(2, {accuracy: 0.9, "eval/knn/kappa": float("nan")})
    checkpoints.save(8, state_of(), CONFIG, scores={accuracy: 0.5})
    checkpoints.wait()
    assert steps_on_disk(saved) == ["2", "8"]
    assert Checkpoints(saved).at(2).manifest.scores == {accuracy: 0.9}
    assert set_damaged_aside(Checkpoints(saved)) == []


@pytest.mark.parametrize("error", [ValueError("bad record"), KeyboardInterrupt()])
def test_a_save_under_way_is_not_lost_when_an_error_ends_the_run(tmp_path, monkeypatch, error):
    slow(monkeypatch)
    with pytest.raises(type(error)), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(), {})
        raise error
    assert Checkpoints(tmp_path).steps() == [1]


def test_an_error_of_one_of_several_processes_waits_for_no_save(tmp_path, monkeypatch):
    may_end = threading.Event()
    slow(monkeypatch, may_end.wait)
    with pytest.raises(ValueError, match="bad record"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(), {})
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        raise ValueError("bad record")
    may_end.set()
    checkpoints.wait()


def test_a_save_that_fails_as_an_error_ends_the_run_is_in_the_same_line(
    tmp_path, monkeypatch, capsys
):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    def run() -> int:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, state_of(), {})
            raise ValueError("bad record")

    slow(monkeypatch, full)
    code, error = end_of(capsys, run)
    assert code == 1 and len(error.splitlines()) == 1
    assert error.startswith("error: bad record; also: ") and "No space left on device" in error


def slow(monkeypatch, first=lambda: time.sleep(0.1)) -> None:
    """What happens `first`, before a save is finished."""
    finalize = ocp.CompositeCheckpointHandler.finalize

    def later(*arguments):
        first()
        finalize(*arguments)

    monkeypatch.setattr(ocp.CompositeCheckpointHandler, "finalize", later)


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
def test_a_full_disk_is_one_line_with_the_way_out(tmp_path, monkeypatch, method):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(ocp.AsyncCheckpointer, method, full)
    message = (
        r"checkpoints.*: checkpoint cannot be saved \(.*No space left on device\); free space on "
        r"that disk, then run the same command again"
    )
    with pytest.raises(OSError, match=message):
        checkpoints.save(1, state_of(), {})
        checkpoints.wait()


def test_a_save_that_fails_is_known_without_waiting_for_one_under_way(tmp_path, monkeypatch):
    may_end = threading.Event()

    def full(*_):
        may_end.wait()
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 5 bytes: No space left on device")

    checkpoints = Checkpoints(tmp_path)
    checkpoints.check()
    checkpoints.save(1, state_of(), {})
    checkpoints.wait()
    checkpoints.check()
    monkeypatch.setattr(ocp.CompositeCheckpointHandler, "finalize", full)
    checkpoints.save(2, state_of(), {})
    checkpoints.check()  # it would wait for ever
    may_end.set()
    with pytest.raises(OSError, match=r"checkpoints/2: .* \(No space left on device\); free space"):
        while True:
            checkpoints.check()
    assert Checkpoints(tmp_path).steps() == [1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EROFS, "Read-only file system", "x"), r"\(Read-only .*\); make that folder"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            r"\(Disk quota .*\); free space within",
        ),
        (OSError(errno.EFBIG, "File too large"), r"\(File too large\); raise the limit .*ulimit"),
        (ValueError("NOT_FOUND: Error opening"), r"\(No such file.*\); find out what removed"),
        (ValueError("INTERNAL: a bug"), r"\(INTERNAL: a bug\); remove the cause"),
    ],
)
def test_what_to_do_about_a_save_that_failed_depends_on_why(tmp_path, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", fail)
    with pytest.raises(OSError, match=f"checkpoint cannot be saved {message}"):
        Checkpoints(tmp_path).save(1, state_of(), {})


def test_a_workdir_that_is_gone_is_not_made_again_but_checkpoints_that_are_gone_are(tmp_path):
    workdir = tmp_path / "run"
    checkpoints = Checkpoints(workdir)
    for step in (1, 2):
        checkpoints.save(step, state_of(), {})
        checkpoints.wait()
        shutil.rmtree(workdir / "checkpoints")
    shutil.rmtree(workdir)
    with pytest.raises(OSError, match=r"\(No such file or directory\); find out what removed"):
        checkpoints.save(3, state_of(), {})
    assert not workdir.exists()


def test_what_interrupted_saves_and_deletions_leave_is_not_listed_and_removed(saved):
    left = [saved / "checkpoints" / name for name in ("2.deleting", "7.orbax-checkpoint-tmp")]
    kept = saved / "checkpoints" / "3.damaged"
    for folder in (*left, kept):
        (folder / "state").mkdir(parents=True)
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [2, 5]
    checkpoints.save(8, state_of(), {})
    checkpoints.wait()
    assert kept.exists() and not any(folder.exists() for folder in left)


def test_a_checkpoint_that_cannot_be_deleted_is_named(saved, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    checkpoints = Checkpoints(saved, Retention(1))
    checkpoints.save(8, state_of(), {})
    with pytest.raises(OSError, match=r"checkpoints/2: .* cannot be deleted \(Permission denied\)"):
        checkpoints.wait()
    assert checkpoints.latest() == 8


# ------------------------------------------------------------------------------------------- hashes


def test_a_hash_sees_one_bit_a_dtype_a_shape_and_a_name():
    leaf = np.arange(4, dtype=np.float32)
    flipped = leaf.copy()
    flipped.view(np.uint32)[2] ^= 1
    others = [{"a": flipped}, {"a": leaf.view(np.int32)}, {"a": leaf.reshape(2, 2)}, {"b": leaf}]
    assert len({state_hash(leaf_hashes(tree)) for tree in [{"a": leaf}, *others]}) == 5
    assert state_hash(leaf_hashes({"a": jnp.asarray(leaf)})) == state_hash(leaf_hashes({"a": leaf}))
