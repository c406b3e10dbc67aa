"""`python -m eo_jax.plan`: a plan of a tiny config by the partitioner of CPU devices, and by libtpu
where that is there; mistakes end in one line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import golden_text
import pytest
from tiny_run import CONFIG, overrides

from eo_jax import cli
from eo_jax.plan import __main__ as command
from eo_jax.plan import compiling, topologies

TINY = [f"--config={CONFIG}", *overrides()]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, since it makes its own devices."""
    return subprocess.run(
        [sys.executable, "-m", "eo_jax.plan", *TINY, *arguments],
        cwd=golden_text.ROOT,
        env=os.environ | {"PYTHONPATH": str(golden_text.ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def plan(tmp_path, *arguments: str, **environment: str) -> tuple[str, str, dict]:
    """(output, errors, JSON) of the command."""
    file = tmp_path / "plan.json"
    ended = run(*arguments, f"--json={file}", **environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr, json.loads(file.read_text())


@pytest.mark.slow
def test_an_estimate_says_that_it_is_one_and_has_everything(tmp_path):
    doctor = tmp_path / "doctor.json"
    doctor.write_text('{"loader_samples_per_s": 1e9}')
    output, _, found = plan(
        tmp_path, "--topology=h100:2x2", "--config.sharding.fsdp=2", f"--doctor={doctor}"
    )
    assert "4 x NVIDIA H100 (h100:2x2), 2 hosts; mesh data 2 x fsdp 2 x model 1" in output
    assert "ESTIMATE: partitioned for CPU devices" in output
    assert "FITS: batch 4 with remat=cheap" in output
    assert "doctor measured 1,000,000,000 samples/s on one host: enough" in output
    assert output.rstrip().endswith("--config.sharding.fsdp=2")
    assert found["fits"] and not found["exact"]
    assert found["largest"]["batch"] % 4 == 0 and found["largest"]["batch"] > 4
    assert found["counted"]["once"]["flops"] == pytest.approx(found["xla"]["flops"], rel=0.05)
    assert found["counted"]["once"]["bytes"] == pytest.approx(found["xla"]["bytes"], rel=0.05)
    assert {row["kind"] for row in found["collectives"]} >= {"all-gather", "all-reduce"}
    assert found["seconds"]["best"] < found["seconds"]["likely"]
    assert found["checkpoint_bytes"] > 0 and found["memory"]["moments"] > 0


@pytest.mark.slow
def test_without_libtpu_a_line_says_how_to_get_it(tmp_path):
    """An importable libtpu, and one in a variable, are hidden."""
    (tmp_path / "libtpu.py").write_text("raise ImportError")
    hidden = {"PYTHONPATH": f"{tmp_path}:{golden_text.ROOT}", "TPU_LIBRARY_PATH": "/no/such.so"}
    output, errors, found = plan(tmp_path, "--topology=v5e:2x2", **hidden)
    assert "no TPU compiler here" in errors and "pip install libtpu" in errors
    assert "ESTIMATE" in output and not found["exact"]


@pytest.mark.slow
def test_libtpu_compiles_for_a_slice_that_is_not_here(tmp_path):
    try:
        compiling.tpu_target(topologies.parse("v5e:2x2"))
    except compiling.NoCompiler as error:
        pytest.skip(str(error))
    settings = ("--topology=v5e:2x2", "--slices=4", "--config.data.batch_size=16", "--compiles=1")
    output, _, found = plan(tmp_path, *settings)
    assert found["asked"]["batch"] == 16 and found["compiles"][0][0] == 4
    assert found["exact"] and "ESTIMATE" not in output
    assert [row["slices"] for row in found["scaling"]] == [1, 2, 4]
    efficiencies = [row["efficiency"] for row in found["scaling"]]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert found["counted"]["once"]["flops"] == pytest.approx(found["xla"]["flops"], rel=0.05)
    assert 0 < found["main_bytes"] <= found["bytes"]


@pytest.mark.slow
def test_a_batch_that_does_not_divide_over_the_pod_is_refused(tmp_path):
    ended = run("--topology=h100:8")
    assert ended.returncode == 1
    assert "config.data.batch_size: 4 does not divide over data x fsdp = 8 devices" in ended.stderr
    assert "the nearest that does: 8" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=configs/FILE.py[:variant] and --topology=CHIP:SHAPE must be given"),
        ([f"--config={CONFIG}", "--topology=v9:4x4"], "--topology=v9:4x4: unknown; expected"),
        ([f"--config={CONFIG}", "--topology=v5e:4x4", "--slices=0"], "--slices=0"),
        (["--config=configs/none.py", "--topology=v5e:4x4"], "there is no file configs/none.py"),
        ([f"--config={CONFIG}", "--topology=v5e:4x4", "--compiles=0"], "--compiles=0"),
        ([f"--config={CONFIG}", "--topology=v5e:4x4", "more"], "nothing without dashes"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(golden_text.ROOT)
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.run(command.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and message in error
    assert error.startswith("error: ") and len(error.splitlines()) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"loader_samples_per_s": 0}', '{"step": 1}'])
def test_what_doctor_did_not_write_is_refused(tmp_path, content):
    file = tmp_path / "doctor.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"--doctor=.*loader_samples_per_s"):
        command._measured(str(file))
