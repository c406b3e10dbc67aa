"""Tests of `python -m eo_jax.import_torch` and of `run.init_from` with a file."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
import tiny_run as tiny_run_module
from reference import relative_error
from run_results import end_of, numbers

from eo_jax import checkpoint, export, import_torch, train
from eo_jax.exchange.contract import to_header
from eo_jax.exchange.importing import Source
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.writing import write_safetensors
from eo_jax.experiment import make_experiment, with_compute_dtype
from eo_jax.load import load
from eo_jax.run import data_fingerprints, write_provenance
from eo_jax.run_encoder import encoder_of_run
from eo_jax.training_setup import make_setup


@pytest.fixture(scope="module")
def weights(tiny_run, tmp_path_factory):
    """The exported encoder of a finished run."""
    _, tensors, contract = export.encoder_of(tiny_run)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    write_safetensors(path, tensors, to_header(sealed(contract, tensors)))
    return path


def config_of(store, **values) -> dict:
    return tiny_run_module.config_of(store, **{"run.steps": 4} | values) | {"evals": {}}


@pytest.fixture(scope="module")
def imported(weights, tiny_store, tmp_path_factory):
    """(workdir of the imported encoder, remarks)."""
    workdir = tmp_path_factory.mktemp("imported") / "run"
    return workdir, import_torch.import_run(Source(weights), config_of(tiny_store), workdir)


def exported(workdir) -> dict[str, np.ndarray]:
    return {key: tensor.make() for key, tensor in export.encoder_of(workdir).tensors.items()}


def test_an_export_of_an_import_is_what_was_imported(imported, tiny_run):
    workdir, remarks = imported
    assert remarks[0].startswith("layout spec_vit") and "step 0 saved" in remarks[-1]
    assert checkpoint.Checkpoints(workdir).steps() == [0]
    before, after = exported(tiny_run), exported(workdir)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(after[key], tensor)


def test_a_folder_that_holds_a_run_is_refused(imported, weights, tiny_store):
    with pytest.raises(ValueError, match="holds a run already"):
        import_torch.import_run(Source(weights), config_of(tiny_store), imported[0])


def run(monkeypatch, main, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["eo_jax", *arguments])
    return main()


def plain_vit(store, seed: int) -> dict:
    """MAE with a plain patch embedding, whose decoder a published class has."""
    return config_of(store, **{"model.stems.enmap.name": "patch_embed", "run.seed": seed})


@pytest.fixture
def with_decoder(tiny_store, tmp_path):
    """Step 0 of a run."""
    workdir = tmp_path / "with_decoder"
    workdir.mkdir()
    config = with_compute_dtype(plain_vit(tiny_store, 0))
    experiment = make_experiment(config)
    setup = make_setup(experiment, experiment.sharding, lambda value: [value])
    write_provenance(workdir, config, data_fingerprints(setup.pipeline, setup.normalisation))
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, setup.session.init(), config)
    return workdir


@pytest.mark.slow
def test_a_decoder_comes_back_by_file_and_run(with_decoder, tiny_store, tmp_path, monkeypatch):
    found = []
    for name, head in (("first", "--with-head"), ("without", ""), ("second", "--with-head")):
        workdir = with_decoder if name == "first" else tmp_path / name
        if name != "first":
            source = Source(tmp_path / "first.safetensors", with_head=bool(head))
            remarks = import_torch.import_run(source, plain_vit(tiny_store, 1), workdir)
            left = any(line.startswith("left out: decoder_blocks") for line in remarks)
            assert left is not bool(head)
        path = tmp_path / f"{name}.safetensors"
        assert (
            run(monkeypatch, export.main, f"--workdir={workdir}", f"--output={path}", "--with-head")
            == 0
        )
        found.append(load(path).tensors)
    first, without, second = found
    assert first.keys() == second.keys() and "decoder_pos_embed" in first
    for key, tensor in first.items():
        np.testing.assert_array_equal(second[key], tensor)
    assert (without["decoder_pred.weight"] != first["decoder_pred.weight"]).any()
    np.testing.assert_array_equal(without["cls_token"], first["cls_token"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output=x.safetensors"], "layout 'spec_vit'; MaskedAutoencoderViT of .* timm_vit"),
        (["--publish=upload"], "--publish: .*leave out --wrapper, --format and --with-head"),
    ],
)
def test_a_head_that_does_not_go_with_the_options_is_refused(
    tiny_run, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, export.main, f"--workdir={tiny_run}", "--with-head", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_imported_network_goes_on_and_its_loss_falls(weights, tiny_store, tmp_path):
    config = config_of(tiny_store, **{"run.steps": 60})
    import_torch.import_run(Source(weights), config, tmp_path)
    assert train.train(config, tmp_path) == 0
    losses = [line["loss"] for line in numbers(tmp_path)]
    assert len(losses) == 60 and np.mean(losses[-15:]) < 0.9 * np.mean(losses[:15])


def test_a_trained_network_loads_strictly_and_gives_its_features(tiny_run):
    torch = pytest.importorskip("torch")
    from torch_twin import SpecViT, load

    run = encoder_of_run(tiny_run)
    exported = export.encoder_of(tiny_run)
    twin = load(
        SpecViT(192, 1, 3, patch=4, image_size=16).eval(),
        {key: tensor.make() for key, tensor in exported.tensors.items()},
    )
    view = np.random.default_rng(0).normal(size=(2, 16, 16, 202)).astype(np.float32)
    found = jax.jit(run.encoder.features)(
        run.params, run.statistics, view, np.ones((2, 16, 16, 1), bool)
    )
    with torch.no_grad():
        expected = twin(torch.from_numpy(view).permute(0, 3, 1, 2)).numpy()
    assert relative_error(found["pooled"], expected[:, 1:].mean(1)) < 1e-4
    assert relative_error(np.asarray(found["dense"]).reshape(2, -1, 192), expected[:, 1:]) < 1e-4


@pytest.mark.slow
def test_init_from_takes_a_file(weights, tiny_store, tmp_path, capsys):
    config = config_of(tiny_store, **{"run.init_from": str(weights)})
    assert train.train(config, tmp_path) == 0
    assert f"{weights}: layout spec_vit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config must be given"),
        (("--config=configs/mae_demo.py:smoke", "--workdir=x"), "--input must be given"),
        (("--config=configs/none.py", "--workdir=x", "--input=y"), "configs/none.py"),
        (
            ("--config=configs/mae_demo.py:smoke", "--workdir=x", "--input=no.safetensors"),
            "no.safetensors: no such file",
        ),
        (
            (
                "--config=configs/mae_demo.py:smoke",
                "--workdir=x",
                "--input=y",
                "--stem=by-wavelength",
                "--bands-nm=a,b",
            ),
            "--bands-nm: a,b; expected numbers in nm",
        ),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["import_torch", *arguments])
    code, error = end_of(capsys, import_torch.main)
    assert code == 1 and message in error and len(error.splitlines()) == 1
