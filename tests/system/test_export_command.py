"""Tests of `python -m eo_jax.export`: which encoder of a run is written, and how."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from safetensors import safe_open

from eo_jax import export
from eo_jax.checkpoint import load
from eo_jax.experiment import make_experiment
from eo_jax.objectives.mae import MAE


@pytest.fixture
def with_teacher(monkeypatch):
    """MAE with a teacher of other weights among its encoders."""
    plain = MAE.encoders

    def encoders(self, params, carry):
        found = plain(self, params, carry)
        enmap = found["enmap"]
        return found | {
            "enmap.teacher": {
                **enmap,
                "params": {
                    **enmap["params"],
                    "trunk": {**enmap["params"]["trunk"], "cls_token": 7 * np.ones((1, 1, 192))},
                },
            }
        }

    monkeypatch.setattr(MAE, "encoders", encoders)


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["eo_jax.export", *arguments])
    return export.main()


def test_the_default_is_the_first_encoder_and_another_is_chosen_by_name(
    tiny_run, tmp_path, monkeypatch, with_teacher
):
    for arguments, expected in (([], "enmap"), (["--encoder=enmap.teacher"], "enmap.teacher")):
        output = tmp_path / f"{expected}.safetensors"
        assert run(monkeypatch, f"--workdir={tiny_run}", f"--output={output}", *arguments) == 0
        with safe_open(output, "np") as file:
            contract = json.loads(file.metadata()["eo_jax"])
            cls_token = file.get_tensor("vit_core.cls_token")
        assert (contract["encoder"], (cls_token == 7).all()) == (
            expected,
            expected == "enmap.teacher",
        )
        assert contract["image_size"] == 16


def test_an_unknown_encoder_is_refused_with_the_names(tiny_run, with_teacher):
    with pytest.raises(ValueError, match=r"enmap\.student.*enmap, enmap\.teacher"):
        export.encoder_of(tiny_run, "enmap.student")


def test_the_weights_are_those_of_the_checkpoint(tiny_run):
    config, _, params, carry = load(tiny_run)
    tensors = export.encoder_of(tiny_run).tensors
    ours = make_experiment(config).objective.encoders(params, carry)["enmap"]["params"]
    np.testing.assert_array_equal(
        tensors["vit_core.norm.weight"].make(), np.asarray(ours["trunk"]["norm"]["scale"])
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=x.safetensors", "--image-size=17"], "--image-size: 17; expected a multiple"),
        (["--output=x.safetensors", "--image-size=0"], "--image-size: 0; expected a multiple"),
        (["--output=x.safetensors", "--image-size=-16"], "--image-size: -16; expected"),
        (["--output=x.safetensors", "--format=pth"], r"--format=pth has the ending \.pth"),
        (["--output=x.npz"], r"x\.npz; an export has the ending \.safetensors or \.pth"),
        (["--output=x.safetensors", "--wrapper=lightning"], r"--wrapper=lightning: is of \.pth"),
        (["--output=x.safetensors", "--wrapper=mae"], r"--wrapper=mae: is of \.pth"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tiny_run, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, f"--workdir={tiny_run}", *options)
    assert not list(tmp_path.iterdir())


def test_a_foreign_file_is_not_overwritten(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=r"x\.safetensors: exists.*--output"):
        run(monkeypatch, f"--workdir={tiny_run}", f"--output={tmp_path / 'x.safetensors'}")
    assert (tmp_path / "x.safetensors").read_bytes() == b"of somebody else"


def test_a_folder_for_the_hub_is_written_from_a_run(tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "upload"
    assert run(monkeypatch, f"--workdir={tiny_run}", f"--publish={folder}") == 0
    names = {file.name for file in folder.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "stac_item.json"}
    with safe_open(folder / "model.safetensors", "np") as file:
        sealed = json.loads(file.metadata()["eo_jax"])
    assert "seal" in sealed and sealed["step"] == 30
    assert "# vit_tiny_mae_enmap" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match=r"--publish.*--wrapper"):
        run(monkeypatch, f"--workdir={tiny_run}", f"--publish={tmp_path}", "--wrapper=mae")
