"""How a run of several processes is asked for, and what is refused before anything is written."""

from __future__ import annotations

import signal

import pytest

from eo_jax.distributed import Start, check_alone, check_pod, chosen, missing_processes, processes

ENVIRONMENT = {
    "EO_JAX_COORDINATOR": "node1:1234",
    "EO_JAX_PROCESS_ID": "3",
    "EO_JAX_NUM_PROCESSES": "4",
}


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((None, None, None), {}, Start("")),
        ((None, None, None), {"EO_JAX_COORDINATOR": "off"}, Start("off")),
        (("auto", None, None), {}, Start("auto")),
        ((None, None, None), {"EO_JAX_COORDINATOR": "auto"}, Start("auto")),
        (("off", None, None), ENVIRONMENT, Start("off")),
        ((None, None, None), ENVIRONMENT, Start("node1:1234", 3, 4)),
        (("[::1]:99", 0, 2), ENVIRONMENT, Start("[::1]:99", 0, 2)),
        ((None, 1, None), ENVIRONMENT, Start("node1:1234", 1, 4)),
    ],
)
def test_flags_win_over_the_environment(flags, environment, expected):
    assert chosen(*flags, environment) == expected


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (("yes", None, None), {}, "--distributed=yes .* expected off, auto, or HOST:PORT"),
        (("node1", 0, 2), {}, "expected off, auto, or HOST:PORT"),
        (("node1:1234", None, 2), {}, "EO_JAX_PROCESS_ID=''.*give --process-id"),
        (("node1:1234", 0, None), {}, "EO_JAX_NUM_PROCESSES=''.*give --num-processes"),
        (("node1:1234", 2, 2), {}, "--process-id=2 with --num-processes=2; expected 0 to 1"),
        ((None, None, None), ENVIRONMENT | {"EO_JAX_PROCESS_ID": "x"}, "EO_JAX_PROCESS_ID='x'"),
    ],
)
def test_a_start_that_cannot_be_is_refused_by_flag_or_variable(flags, environment, message):
    with pytest.raises(ValueError, match=message):
        chosen(*flags, environment)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "2"},
        {"SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_SIZE": "2"},
        {"MEGASCALE_NUM_SLICES": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b,c,d"},
        {"JOBSET_NAME": "pretrain"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_one_task_of_several_does_not_train_on_its_own(environment):
    with pytest.raises(ValueError, match=rf"{next(iter(environment))} .*--distributed=auto"):
        check_alone(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},  # srun --ntasks=1 in a larger job
        {"OMPI_COMM_WORLD_SIZE": "1", "TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_one_task_trains(environment):
    check_alone(environment)
    check_pod(environment)


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_pod_of_an_indexed_job_trains_alone_only_where_that_is_said(monkeypatch, index):
    """It may be the only one, one of a sweep, or process 0 of many: it cannot know."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ValueError, match=r"JOB_COMPLETION_INDEX .*--distributed=auto .*=off if"):
        processes(Start("")).__enter__()
    with processes(Start("off")) as alone:
        assert alone.count == 1


def test_the_processes_that_did_not_come_are_read_from_the_services_message():
    message = (
        "DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0.\n"
        "# of tasks that reached the barrier: 2/4.\n"
        "The first task at the barrier: 0. Some timed out task names:\n1\n/job:x/task:3\n\n\n"
        "RPC: /xla.coordination.CoordinationService/RegisterTask"
    )
    assert missing_processes(message) == [1, 3]
    assert missing_processes("UNAVAILABLE: no route to host") == []
