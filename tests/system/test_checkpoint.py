"""A saved state comes back bit for bit; a checkpoint that cannot is one clear line."""

from __future__ import annotations

import errno
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from eo_jax import checkpoint, cli
from eo_jax.checkpoint import Checkpoints, leaf_hashes, state_hash

CONFIG = {
    "optim": {"lr": 1e-3, "decay_rules": (("bias$", 0.0), (".*", 1.0))},
    "run": {"writers": ()},
}


def state_of(seed: int = 0) -> dict:
    """A train state with every kind of leaf."""
    values = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    return {
        "step": jnp.asarray(5, jnp.int32),
        "params": {"kernel": jnp.asarray(values), "bias": jnp.zeros(4)},
        "carry": {"encoder": {}},
        "optimizer": (
            {"mu": jnp.asarray(values, jnp.bfloat16)},
            {"count": jnp.asarray(5, jnp.int32)},
        ),
    }


def like(state: dict) -> dict:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


@pytest.fixture
def saved(tmp_path):
    """A workdir with checkpoints 2 and 5."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(2, state_of(1), next_batch=2, config=CONFIG)
    checkpoints.save(5, state_of(0), next_batch=5, config=CONFIG)
    checkpoints.wait()
    return tmp_path


def test_state_data_position_and_config_come_back(saved):
    checkpoints = Checkpoints(saved, keep=2)
    state, next_batch = checkpoints.restore(like(state_of()))
    assert (checkpoints.latest(), next_batch) == (5, 5)
    assert leaf_hashes(state) == leaf_hashes(state_of())
    assert jax.tree.structure(state) == jax.tree.structure(state_of())
    assert checkpoints.config() == {
        "optim": {"lr": 1e-3, "decay_rules": [["bias$", 0.0], [".*", 1.0]]},
        "run": {"writers": []},
    }


def test_bad_records_come_back_and_older_checkpoints_have_none(saved):
    checkpoints = Checkpoints(saved, keep=2)
    assert checkpoints.bad_records() == {}
    checkpoints.save(8, state_of(), next_batch=8, config=CONFIG, bad_records={"s2": [17, 403]})
    checkpoints.wait()
    assert checkpoints.bad_records() == {"s2": [17, 403]}
    (data,) = (
        path
        for path in (saved / "checkpoints" / "8" / "data").iterdir()
        if path.read_text().startswith('{"next_batch"')
    )
    data.write_text('{"next_batch": 8}')
    assert Checkpoints(saved).bad_records() == {}


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
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, next_batch=1, config={})
    for _ in range(20):
        state = advance(state)
    checkpoints.wait()
    assert leaf_hashes({"params": checkpoint.load(tmp_path)[2]}) == before


def test_only_the_newest_are_kept(saved):
    checkpoints = Checkpoints(saved, keep=2)
    checkpoints.save(8, state_of(), next_batch=8, config=CONFIG)
    checkpoints.wait()
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["5", "8"]


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


def truncate(workdir, part: str) -> None:
    """Halves every file of a part of checkpoint 5, as a full disk or a broken copy leaves it."""
    files = [
        path
        for path in (workdir / "checkpoints" / "5" / part).rglob("*")
        if path.is_file() and path.stat().st_size > 1
    ]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ("state", lambda checkpoints: checkpoints.restore(like(state_of()))),
        ("state", lambda checkpoints: checkpoints.arrays()),
        ("data", lambda checkpoints: checkpoints.restore(like(state_of()))),
        ("config", lambda checkpoints: checkpoints.config()),
    ],
)
def test_a_truncated_checkpoint_is_one_line_with_the_way_out(saved, part, read):
    truncate(saved, part)
    with pytest.raises(
        OSError,
        match=r"checkpoints/5.*: checkpoint cannot be restored \(.*\); delete that folder to go "
        r"back",
    ) as error:
        read(Checkpoints(saved, keep=2))
    assert len(str(error.value).splitlines()) == 1


def test_after_deleting_it_as_told_the_checkpoint_before_is_the_newest(saved):
    shutil.rmtree(saved / "checkpoints" / "5")
    state, next_batch = Checkpoints(saved, keep=2).restore(like(state_of()))
    assert next_batch == 2 and leaf_hashes(state) == leaf_hashes(state_of(1))


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
def test_a_full_disk_is_one_line_with_the_way_out(tmp_path, monkeypatch, method):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=1)
    monkeypatch.setattr(ocp.CheckpointManager, method, full)
    message = (
        r"checkpoints.*: checkpoint cannot be saved \(.*No space left on device\); free space on "
        r"that disk, then run the same command again"
    )
    with pytest.raises(OSError, match=message):
        checkpoints.save(1, state_of(), next_batch=1, config={})
        checkpoints.wait()


# --- hashes


def test_a_hash_sees_one_bit_a_dtype_a_shape_and_a_name():
    leaf = np.arange(4, dtype=np.float32)
    flipped = leaf.copy()
    flipped.view(np.uint32)[2] ^= 1
    others = [{"a": flipped}, {"a": leaf.view(np.int32)}, {"a": leaf.reshape(2, 2)}, {"b": leaf}]
    assert len({state_hash(leaf_hashes(tree)) for tree in [{"a": leaf}, *others]}) == 5
    assert state_hash(leaf_hashes({"a": jnp.asarray(leaf)})) == state_hash(leaf_hashes({"a": leaf}))


def test_the_hash_command_prints_every_leaf_and_the_whole(saved, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["checkpoint", "hash", f"--workdir={saved}"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(checkpoint.main)
    *leaves, whole = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0
    assert [line.split()[1] for line in leaves] == [
        "optimizer/0/mu",
        "optimizer/1/count",
        "params/bias",
        "params/kernel",
        "step",
    ]
    assert whole.split()[1:] == ["whole", "state,", "step", "5"] and len(whole.split()[0]) == 64
