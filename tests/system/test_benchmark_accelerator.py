"""The benchmark for accelerators: budget, failures, what is kept; each kind of row in miniature."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.accelerator import report
from benchmarks.accelerator.__main__ import main
from benchmarks.accelerator.cases import CASES, experiment_of
from benchmarks.accelerator.processes import RowProcess
from benchmarks.accelerator.rows import EXPLORATORY, MAIN, ROWS, Row
from benchmarks.accelerator.scale import SCALES

ROOT = Path(__file__).parents[2]
MINIATURE = SCALES["miniature"]


def run(path: Path, *arguments: str) -> int:
    return main(["--json", str(path), "--miniature", *arguments])


def rows_of(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text())["rows"]


def test_a_row_is_measured_once_in_a_process_of_its_own(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert run(path, "--only", "matrix_products") == 0
    (row,) = rows_of(path).values()
    assert row["figures"]["flops_per_s"] == max(row["figures"]["by_shape"].values()) > 0
    assert row["device"].startswith("cpu") and row["versions"]["jax"] and row["seconds"] > 0
    assert run(path, "--only", "matrix_products") == 0  # nothing left to do
    assert rows_of(path) == {"matrix_products": row}
    assert "[1/1] matrix_products: done" in capsys.readouterr().out


def test_a_row_that_does_not_fit_the_budget_is_skipped_by_name(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert run(path, "--only", "equal_runs", "flat_adamw", "--budget", "1") == 3
    skipped = {name: row["skipped"] for name, row in rows_of(path).items()}
    assert list(skipped) == ["equal_runs", "flat_adamw"]
    assert skipped["equal_runs"].startswith(f"planned for {ROWS['equal_runs'].seconds} s")
    assert "[2/2] flat_adamw: skipped" in capsys.readouterr().out


def test_a_skipped_row_keeps_what_it_had_found_before(tmp_path):
    path = tmp_path / "figures.json"
    found = {"figures": {"first": 1.5}, "failed": "RuntimeError: memory", "seconds": 2.0}
    report.write(path, "miniature", {"flat_adamw": found})
    run(path, "--only", "flat_adamw", "--budget", "1")
    assert rows_of(path) == {"flat_adamw": found}


def test_a_row_is_ended_at_its_limit_and_says_so(tmp_path):
    with RowProcess(ROWS["equal_runs"], "miniature", tmp_path) as process:
        assert (tmp_path / "equal_runs").is_dir()  # its temporary files
        assert process.run(0.05) == {"figures": {}, "failed": "not done after 0 s"}
    assert not (tmp_path / "equal_runs").exists()


def test_a_process_that_dies_is_a_failed_row(tmp_path):
    without_python = Row("matrix_products", 1, "products.peak", environment={"PYTHONHOME": "/none"})
    with RowProcess(without_python, "miniature", tmp_path) as process:
        assert process.run(60)["failed"].startswith("ended with exit code 1: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"scale": "full", "rows": {}}', "its scale is 'full', expected 'miniature'"),
        ("[1]", "not a file of this benchmark"),
    ],
)
def test_other_files_are_refused_and_left_alone(tmp_path, capsys, text, message):
    path = tmp_path / "figures.json"
    path.write_text(text)
    assert run(path) == 1
    assert message in capsys.readouterr().err and path.read_text() == text


def test_unknown_rows_are_named(tmp_path, capsys):
    assert run(tmp_path / "figures.json", "--only", "mae") == 1
    assert "--only mae: no such row; there are matrix_products" in capsys.readouterr().err


def test_ratios_compare_rows():
    rows = {
        "matrix_products": {"figures": {"flops_per_s": 800.0}},
        "mae_rgb_vit_l": {"figures": {"flops_per_s": 400.0, "samples_per_s": 30.0}},
        "torch_mae_rgb_vit_l": {"figures": {"samples_per_s": 20.0}},
        "torch_dino_rgb_vit_l": {"failed": "memory"},
    }
    figures = {name: row["figures"] for name, row in report.with_ratios(rows).items()}
    assert figures["mae_rgb_vit_l"]["mfu_of_products"] == 0.5
    assert figures["torch_mae_rgb_vit_l"]["ours_to_it"] == 1.5
    assert "mfu_of_products" not in figures["matrix_products"]
    assert figures["torch_dino_rgb_vit_l"] == {}


def test_the_main_rows_fit_nine_minutes_and_names_are_unique():
    assert sum(row.seconds for row in MAIN) <= 540
    assert len(ROWS) == len(MAIN) + len(EXPLORATORY)
    assert {row.over for row in ROWS.values()} <= {"", *ROWS}


def test_every_row_names_a_function_that_takes_its_settings():
    pytest.importorskip("torch")
    for row in ROWS.values():
        module, function = row.measure.split(".")
        measure = getattr(importlib.import_module(f"benchmarks.accelerator.{module}"), function)
        inspect.signature(measure).bind(MINIATURE, **row.settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_miniature_is_the_same_in_small(name):
    full, small = (experiment_of(name, SCALES[scale]) for scale in ("full", "miniature"))
    assert full.objective_name == small.objective_name and full.augment != small.augment
    assert {view: count for view, (count, _) in full.views.items()} == {
        view: count for view, (count, _) in small.views.items()
    }
    assert small.data.batch_size < full.data.batch_size


@pytest.mark.slow
def test_fused_attention_is_attention():
    from flax import nnx

    from benchmarks.accelerator.variants import FusedAttention
    from eo_jax.models.layers.attention import Attention

    ours, fused = (
        layer(32, 4, jax.numpy.dtype("float32"), rngs=nnx.Rngs(0))
        for layer in (Attention, FusedAttention)
    )
    x = jax.random.normal(jax.random.key(0), (2, 5, 32))
    ours.qkv_bias[...] = fused.qkv_bias[...] = jax.random.normal(jax.random.key(1), (3, 4, 8))
    np.testing.assert_allclose(fused(x), ours(x), rtol=1e-4, atol=1e-6)


def test_wheels_for_a_machine_without_a_network_are_pinned():
    said = subprocess.run(
        ["bash", ROOT / "benchmarks" / "accelerator.sh"], capture_output=True, text=True, check=True
    ).stdout
    (line,) = (line for line in said.splitlines() if "--dest wheels" in line)
    pins = line.split("--dest wheels ")[1].split()
    constraints = (ROOT / "constraints.txt").read_text()
    assert {"grain", "blosc2", "ml-collections"} <= {pin.split("==")[0] for pin in pins}
    assert all(f"\n{pin}" in constraints for pin in pins)


@pytest.mark.slow
def test_every_kind_of_row_in_miniature(tmp_path):
    pytest.importorskip("torch")
    path, kinds = tmp_path / "figures.json", {row.measure: row.name for row in ROWS.values()}
    run(path, "--only", *kinds.values())
    rows = rows_of(path)
    failed = {name: row["failed"] for name, row in rows.items() if "failed" in row}
    assert list(rows) == list(kinds.values())
    assert failed.keys() == {kinds["variants.step_with_attention"]}  # which needs a GPU
    assert all("cuDNN" in reason for reason in failed.values())
    assert rows["equal_runs"]["figures"]["equal"]
