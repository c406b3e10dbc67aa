"""Runs of two and four processes: the numbers of one, and together to the end, whatever happens to
one.

Each is the real command over the loopback device, on the smallest experiment.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from multidevice import interleaved
from run_results import hashes, numbers
from several_processes import PEER_TIMEOUT, Processes, environment, free_port
from test_bad_records import damage
from tiny_run import SMALL, config_of
from tiny_store import write_tiny_store

from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import make_experiment

STEPS = 16
SHORT = (f"--config.run.steps={STEPS}",)
LONG = ("--config.run.steps=100000",)
FOUR = pytest.param(4, marks=pytest.mark.slow)
# (processes, the one that is lost, by which signal): process 0 hosts the store that all share.
LOST = [
    *((2, k, number) for k in (0, 1) for number in (signal.SIGKILL, signal.SIGSTOP)),
    (4, 0, signal.SIGSTOP),
    (4, 2, signal.SIGKILL),
]


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def whole(tiny_store, tmp_path_factory) -> Path:
    """The workdir of a run of one process with two devices, in one go."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    with Processes(tiny_store, workdir, *SHORT, count=1) as run:
        codes, outputs = run.ends()
    assert codes == [0], outputs
    return workdir


@pytest.mark.parametrize("count", [2, FOUR])
def test_sigterm_to_one_process_stops_all_at_one_step_with_the_state_saved(
    tiny_store, tmp_path, count
):
    workdir = tmp_path / "run"
    with Processes(tiny_store, workdir, *LONG, count=count) as run:
        run.wait_for(lambda: run.logged() >= 2)
        run.send(1, signal.SIGTERM)
        codes, (first, *others) = run.ends()
        step = run.saved()[-1]
    assert codes == [143] * count, (first, others)
    assert "stopping, process 1 (" in first and "received SIGTERM" in first
    assert last_line(first).startswith(f"stopped at step {step} of 100000, state saved")
    assert run.logged() == step and "step" not in "".join(others)  # one process speaks for all
    assert not (workdir / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("service", ["true", "false"])
def test_jax_preemption_service_neither_takes_the_signal_nor_is_missed(
    tiny_store, tmp_path, service
):
    """Its handler of SIGTERM is in C++, so that Python's knows nothing of it."""
    workdir = tmp_path / "run"
    with Processes(tiny_store, workdir, *LONG, JAX_ENABLE_PREEMPTION_SERVICE=service) as run:
        run.wait_for(lambda: run.saved() and run.logged() >= 6)
        run.send(1, signal.SIGTERM)
        codes, (first, second) = run.ends()
        step = run.saved()[-1]
    assert codes == [143, 143], (first, second)
    assert last_line(first).startswith(f"stopped at step {step} of 100000, state saved")


@pytest.mark.slow
def test_a_signal_before_the_processes_have_met_ends_the_one_that_receives_it(tiny_store, tmp_path):
    program = """
import os, signal, jax
from eo_jax import cli, train
found_each_other = jax.distributed.initialize
def and_at_once(**options):
    found_each_other(**options)
    os.kill(os.getpid(), signal.SIGTERM)
jax.distributed.initialize = and_at_once
cli.run(train.main)
"""
    workdir = tmp_path / "run"
    with Processes(tiny_store, workdir, *LONG, programs={1: ("-c", program)}) as run:
        codes, (first, _) = run.ends()
    assert codes == [75, -signal.SIGTERM], first
    assert "ended because another process was lost before it had told of" in last_line(first)
    assert not workdir.exists()


# --------------------------------------------------------------------------------- the same numbers


@pytest.mark.slow
def test_a_global_batch_is_the_same_wherever_the_devices_of_processes_are_in_the_mesh(tiny_store):
    port = str(free_port())
    variables = environment(devices=2)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "multidevice.interleaved", port, str(k), str(tiny_store)],
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    printed = [process.communicate(timeout=60)[0].splitlines()[-1] for process in started]
    expected = interleaved.digest(interleaved.rows_of(str(tiny_store), None))
    meshes = len(interleaved.ORDERS) * len(interleaved.SHAPES)
    assert [json.loads(line) for line in printed] == [[expected] * meshes] * 2


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_and_that_go_on_as_two_and_as_one_end_like_one(
    whole, tiny_store, tmp_path
):
    workdir, often = tmp_path / "run", (*SHORT, "--config.run.save_every=2")
    for killed, saved in ((1, 2), (0, 4)):
        with Processes(tiny_store, workdir, *often) as run:
            run.wait_for(lambda: run.saved() and run.saved()[-1] >= saved)  # noqa: B023
            run.send(killed, signal.SIGKILL)
            codes, outputs = run.ends(timeout=4 * PEER_TIMEOUT)
        assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 75, outputs
        assert run.saved()[-1] < STEPS
    with Processes(tiny_store, workdir, *often, count=1) as run:
        run.wait_for(lambda: run.saved()[-1] >= 6)
        run.send(0, signal.SIGTERM)
        codes, outputs = run.ends()
    assert codes == [143] and run.saved()[-1] < STEPS, outputs
    with Processes(tiny_store, workdir, *often) as run:
        codes, outputs = run.ends()
    assert codes == [0, 0], outputs
    assert hashes(workdir) == hashes(whole)
    assert numbers(workdir) == numbers(whole)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_process_that_starts_late_is_waited_for(whole, tiny_store, tmp_path, count):
    others = range(1, count)
    with Processes(tiny_store, tmp_path / "run", *SHORT, count=count, started=others) as run:
        with pytest.raises(subprocess.TimeoutExpired):
            run.processes[1].wait(timeout=5)
        run.start(0)
        codes, outputs = run.ends()
    assert codes == [0] * count, outputs
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-5)
    if count == 2:  # four gradients are added up in another order
        assert hashes(tmp_path / "run") == hashes(whole)


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in numbers(workdir) if "loss" in line]


# ---------------------------------------------------------------------------------- what goes wrong


@pytest.mark.slow
@pytest.mark.parametrize(("count", "k", "number"), LOST)
def test_a_process_that_is_lost_ends_the_others_in_time_and_by_name(
    tiny_store, tmp_path, count, k, number
):
    with Processes(tiny_store, tmp_path / "run", *LONG, count=count) as run:
        run.wait_for(lambda: run.logged() >= 2)
        run.send(k, number)
        others = {other: process for other, process in run.processes.items() if other != k}
        outputs = {
            other: process.communicate(timeout=4 * PEER_TIMEOUT)[0]
            for other, process in others.items()
        }
    assert [process.returncode for process in others.values()] == [75] * (count - 1), outputs
    for other, output in outputs.items():
        assert last_line(output).startswith(f"process {other} of {count} (")
        assert f"ended because process {k} (" in last_line(output)
        assert "C++" not in output and "stack trace" not in output


@pytest.mark.slow
@pytest.mark.parametrize(("count", "k"), [(2, 0), (2, 1), (4, 2)])
def test_a_bad_record_of_one_process_ends_all_with_its_name_and_the_state_saved(tmp_path, count, k):
    store = write_tiny_store(tmp_path / "store", 48, format="zarr")
    bad = first_drawn(store, batch=5, process=k, rows=SMALL["data.batch_size"] // count)
    damage(store, bad)
    with Processes(store, tmp_path / "run", *LONG, count=count) as run:
        codes, outputs = run.ends()
        saved = run.saved()
    assert codes == [1 if process == k else 75 for process in range(count)], outputs
    assert saved and 3 <= saved[-1] <= 5
    for process, output in enumerate(outputs):
        assert "a checksum does not match" in last_line(output)
        assert process == k or f"ended because process {k} (" in last_line(output)


@pytest.mark.slow
def test_a_bad_record_of_the_evaluation_ends_both_with_the_state_saved(tmp_path):
    store = write_tiny_store(tmp_path / "store", 24, size=16, format="zarr")
    damage(store, 21)  # number 9 of split "val": in row 1 of the third batch, which is process 0's
    with Processes(store, tmp_path / "run", "--config.run.steps=3") as run:
        codes, outputs = run.ends()
        saved = run.saved()
    assert codes == [1, 75], outputs
    assert saved == [3] and "reconstruction/rmse" not in outputs[0]
    for output in outputs:
        assert "a checksum does not match" in last_line(output)


def first_drawn(store: Path, batch: int, process: int, rows: int) -> int:
    """A sample that is alone at its location and first drawn in a batch, by a process, which has so
    many rows.
    """
    pipeline, seen = Pipeline(make_experiment(config_of(store)).data, 0), set()
    for n in range(batch + 1):
        positions = pipeline.batch(n)["enmap"]["position"].tolist()
        locations = [pipeline._orders["enmap"][position] for position in positions]
        if n < batch:
            seen |= set(locations)
    members = [pipeline.sources["enmap"].groups.samples(location) for location in locations]
    own = slice(rows * process, rows * (process + 1))
    alone = [
        int(samples[0])
        for samples, location in zip(members[own], locations[own], strict=True)
        if len(samples) == 1 and location not in seen
    ]
    return alone[0]


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 1])
def test_an_error_of_the_final_save_is_that_of_the_run(tiny_store, tmp_path, k):
    program = """
import orbax.checkpoint as ocp
from eo_jax import cli, train
def full(manager):
    raise OSError(28, "No space left on device")
ocp.AsyncCheckpointer.wait_until_finished = full
cli.run(train.main)
"""
    programs = {k: ("-c", program)}
    with Processes(tiny_store, tmp_path / "run", *SHORT, programs=programs) as run:
        codes, outputs = run.ends()
    assert codes == ([1, 75] if k == 0 else [75, 1]), outputs
    for output in outputs:
        assert "cannot be saved" in last_line(output) and "No space left" in last_line(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("k", "reader", "what"),
    [(0, "read", "leaf "), (0, "restore", "state"), (1, "restore", "state")],
)
def test_a_checkpoint_that_one_process_cannot_read_ends_both_with_its_cause(
    whole, tiny_store, tmp_path, k, reader, what
):
    """Process 0 compares all arrays first; then each reads the parts of its devices."""
    program = f"""
from eo_jax import cli, train
from eo_jax.checkpoint import arrays
def refused(*_):
    raise ValueError("PERMISSION_DENIED: Error opening file: Permission denied")
arrays.{reader} = refused
cli.run(train.main)
"""
    workdir = shutil.copytree(whole, tmp_path / "run")
    with Processes(tiny_store, workdir, *SHORT, programs={k: ("-c", program)}) as run:
        codes, outputs = run.ends()
    assert codes == ([1, 75] if k == 0 else [75, 1]), outputs
    for output in outputs:
        assert f"checkpoints/{STEPS}: checkpoint cannot be read ({what}" in last_line(output)
        assert "Permission denied" in last_line(output)
    assert run.saved() == [15, STEPS]


@pytest.mark.slow
def test_steps_that_are_not_finite_end_both_with_the_batch_by_name(tiny_store, tmp_path):
    program = """
import jax.numpy as jnp
from eo_jax import cli, train
from eo_jax.objectives import mae
mae.masked_error = lambda *_: jnp.nan
cli.run(train.main)
"""
    programs = dict.fromkeys(range(2), ("-c", program))
    with Processes(tiny_store, tmp_path / "run", *LONG, programs=programs) as run:
        codes, outputs = run.ends()
    assert set(codes) <= {1, 75} and 1 in codes, outputs
    for output in outputs:
        assert "step 11: 11 steps in a row changed nothing" in last_line(output)
        assert "The last was on batch 10, source 'enmap'" in last_line(output)


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(tiny_store, tmp_path):
    late = {"count": 4, "started": [0, 2], "EO_JAX_START_TIMEOUT": "4"}
    with Processes(tiny_store, tmp_path / "run", **late) as run:
        codes, (first, third) = run.ends()
    assert codes == [1, 1]
    assert "process 0 of 4 (" in last_line(first)
    assert "error: process 1, 3 did not start within 4 s" in last_line(first)
    assert "the last line of process 0 names those that are missing" in last_line(third)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_second_run_on_the_workdir_is_refused_in_all_its_processes(tiny_store, tmp_path):
    with Processes(tiny_store, tmp_path / "run", *LONG) as run:
        run.wait_for(lambda: run.logged() >= 2)
        with Processes(tiny_store, tmp_path / "run", *LONG) as second:
            codes, outputs = second.ends()
        assert codes == [1, 75], outputs
        for output in outputs:
            assert f"another run writes here: process {run.processes[0].pid} on host" in output
        run.send(0, signal.SIGINT)
        codes, outputs = run.ends()
    assert codes == [143, 143], outputs


@pytest.mark.slow
def test_one_task_of_several_that_is_not_distributed_writes_nothing(tiny_store, tmp_path):
    with Processes(tiny_store, tmp_path / "run", count=1, SLURM_NTASKS="2") as run:
        codes, (output,) = run.ends()
    assert codes == [1] and "SLURM_NTASKS says that this job has 2 tasks" in last_line(output)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_auto_without_a_cluster_is_one_process(tiny_store, tmp_path):
    with Processes(tiny_store, tmp_path / "run", "--distributed=auto", *SHORT, count=1) as run:
        codes, (output,) = run.ends()
    assert codes == [0] and "no cluster in the environment; one process" in output


@pytest.mark.slow
def test_a_signal_while_the_step_is_compiled_says_that_there_is_nothing_to_save(
    tiny_store, tmp_path
):
    with Processes(tiny_store, tmp_path / "run", *LONG) as run:
        run.wait_for((tmp_path / "run" / ".lock").exists)
        run.send(1, signal.SIGTERM)
        codes, (first, _) = run.ends()
    assert codes == [143, 143]
    assert last_line(first) == (
        "stopped before the first step: nothing to save; the same command starts again"
    )
