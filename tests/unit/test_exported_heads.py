"""Tests of `--with-head`: heads in the classes of PyTorch that have them, and back."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from exported_heads import BANDS, PATCH, TINY, made, run_of, write
from reference import relative_error
from tiny_objectives import SIZE

from eo_jax import export, warm_start
from eo_jax.exchange.contract import to_header
from eo_jax.exchange.importing import Source, import_encoder
from eo_jax.exchange.importing_head import with_head
from eo_jax.exchange.reading import read_tensors
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.writing import write_safetensors
from eo_jax.load import load
from eo_jax.models.functional import EVALUATE

torch = pytest.importorskip("torch")
import torch_twin  # noqa: E402  torch may be absent
from head_twins import DINOHead, MaskedAutoencoder, MultiCropWrapper, moco_v3  # noqa: E402

import eo_jax_torch  # noqa: E402


@pytest.fixture
def file_of(tmp_path):
    """objective, encoder, prefix -> a file with its head."""

    def make(objective: str, name: str = "s2", prefix: str = ""):
        run = run_of(objective, tmp_path, name)
        found = export.with_head(export.exported_encoder(run), run)
        return write(tmp_path / f"{objective}.safetensors", found, prefix)

    return make


def plain_encoder() -> torch_twin.VisionTransformer:
    return torch_twin.VisionTransformer(BANDS, *TINY, PATCH, SIZE)


def twin_of(objective: str):
    if objective == "mae":
        return MaskedAutoencoder(BANDS, *TINY, PATCH, SIZE, (16, 1, 2))
    if objective == "dino":
        return MultiCropWrapper(plain_encoder(), DINOHead(TINY[0], 24, 12, 20))
    return moco_v3(plain_encoder(), [TINY[0], 24, 16])


def views(count: int) -> dict[str, np.ndarray]:
    """Two images, all of them valid."""
    shape = (2, count, SIZE, SIZE)
    pixels = np.random.default_rng(0).normal(size=(*shape, BANDS)).astype(np.float32)
    return {"s2/global": pixels, "s2/global/valid": np.ones((*shape, 1), bool)}


def of_torch(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(pixels, -1, 1))


def test_the_decoder_of_mae_predicts_the_pixels_that_ours_does(file_of):
    _, experiment, params, carry = made("mae")
    found = jax.jit(experiment.objective.preview)(params, carry, views(1), jax.random.key(5))
    twin = torch_twin.load(twin_of("mae"), load(file_of("mae")).tensors).eval()
    masked = np.array(found["masked"])
    with torch.no_grad():
        hidden = torch.from_numpy(masked[:, ::PATCH, ::PATCH]).flatten(1)
        predicted = np.moveaxis(twin(of_torch(views(1)["s2/global"][:, 0]), hidden).numpy(), 1, -1)
    assert 0 < masked.mean() < 1
    ours = np.asarray(found["reconstruction"])
    assert relative_error(ours[masked], predicted[masked]) < 1e-4


@pytest.mark.parametrize("name", ["s2", "s2.teacher"])
def test_the_head_of_dino_gives_the_outputs_of_ours(file_of, name):
    _, experiment, params, carry = made("dino")
    if name == "s2.teacher":
        params, carry = carry["teacher"]["params"], carry["teacher"]["statistics"]
    given, objective = views(2), experiment.objective

    @jax.jit
    def ours(params, carry, views):
        features, _ = objective.encode_crop_set(params, carry, views, "global", EVALUATE)
        return objective.head("projector", params, carry, features, EVALUATE)[0]

    twin = torch_twin.load(twin_of("dino"), load(file_of("dino", name)).tensors).eval()
    with torch.no_grad():
        expected = twin([of_torch(given["s2/global"][:, v]) for v in range(2)]).numpy()
    assert relative_error(np.asarray(ours(params, carry, given)).reshape(4, -1), expected) < 1e-4


def test_the_projector_of_moco_v3_gives_the_outputs_of_ours(file_of):
    _, experiment, params, carry = made("moco_v3")
    features = np.random.default_rng(0).normal(size=(4, TINY[0])).astype(np.float32)

    @jax.jit
    def project(params, carry, features):
        return experiment.objective.head("projector", params, carry, features, EVALUATE)[0]

    twin = torch_twin.load(twin_of("moco_v3"), load(file_of("moco_v3")).tensors).eval()
    with torch.no_grad():
        expected = twin.head(torch.from_numpy(features)).numpy()
    assert relative_error(project(params, carry, features), expected) < 1e-4


@pytest.mark.parametrize(
    ("objective", "prefix"),
    [("mae", ""), ("dino", ""), ("moco_v3", ""), ("moco_v3", "module.base_encoder.")],
)
def test_heads_come_back_bit_for_bit(file_of, objective, prefix):
    config, experiment, params, carry = made(objective)
    encoder, shapes = experiment.encoders["s2"], experiment.objective.heads(params, carry)["s2"]
    path = file_of(objective, prefix=prefix)
    imported = import_encoder(Source(path), encoder, SIZE)
    assert any(line.startswith("left out: ") for line in imported.remarks)
    found = with_head(imported, config["objective"], encoder, shapes, SIZE)
    assert not any(line.startswith("left out: ") for line in found.remarks)
    for kind, heads in found.heads.items():
        for part, weights in heads.items():
            jax.tree.map(np.testing.assert_array_equal, weights, shapes[kind][part])

    fresh = jax.tree.map(np.zeros_like, {"params": params, "carry": carry})
    state = warm_start.with_heads(fresh, found.heads, path)
    (part,) = found.heads["params"]
    given = found.heads["params"][part], found.heads["statistics"][part]
    owners = [(state["params"], state["carry"])]
    if "teacher" in carry:
        owners.append(
            (state["carry"]["teacher"]["params"], state["carry"]["teacher"]["statistics"])
        )
    for weights, statistics in owners:
        jax.tree.map(np.testing.assert_array_equal, weights[part], given[0])
        jax.tree.map(np.testing.assert_array_equal, statistics.get(part, {}), given[1])
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(weights["encoder"]))


@pytest.mark.parametrize("objective", ["mae", "dino", "moco_v3"])
def test_a_file_with_a_head_is_loaded_into_its_class_and_into_the_encoder_alone(file_of, objective):
    path = file_of(objective)
    tensors = load(path).tensors
    for network, prefix in ((twin_of(objective), ""), (plain_encoder(), "backbone.")):
        prefix = prefix if objective == "dino" else ""
        contract = eo_jax_torch.load_encoder(path, network)
        for key, value in network.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), tensors[f"{prefix}{key}"])
    assert contract["head"]["name"] == objective


def test_a_decoder_with_other_heads_is_refused(file_of):
    other = MaskedAutoencoder(BANDS, *TINY, PATCH, SIZE, (16, 1, 4))
    with pytest.raises(ValueError, match=r"decoder_num_heads=2.*num_heads is \[3, 4\], not \[3, 2"):
        eo_jax_torch.load_encoder(file_of("mae"), other)


def test_a_damaged_head_is_found_by_its_name(file_of, tmp_path):
    found = export.with_head(
        export.exported_encoder(run_of("dino", tmp_path)), run_of("dino", tmp_path)
    )
    contract = sealed(found.contract, found.tensors)
    key = "head.mlp.2.weight"
    moved = found.tensors[key]._replace(make=lambda: found.tensors[key].make()[::-1])
    path = tmp_path / "moved.safetensors"
    write_safetensors(path, found.tensors | {key: moved}, to_header(contract))
    for read in (load, eo_jax_torch.read):
        with pytest.raises(ValueError, match=r"head\.mlp\.2\.weight"):
            read(path)


def state_dict(objective: str, tmp_path) -> dict[str, np.ndarray]:
    """A file with a head that has no contract."""
    run = run_of(objective, tmp_path)
    found = export.with_head(export.exported_encoder(run), run)
    return {key: tensor.make() for key, tensor in found.tensors.items()}


def imported(objective: str, tensors: dict[str, np.ndarray], tmp_path):
    config, experiment, params, carry = made(objective)
    path = tmp_path / "published.npz"
    np.savez(path, **tensors)
    encoder, heads = experiment.encoders["s2"], experiment.objective.heads(params, carry)["s2"]
    found = import_encoder(Source(path), encoder, SIZE)
    return with_head(found, config["objective"], encoder, heads, SIZE)


@pytest.mark.parametrize(
    ("objective", "output", "key"),
    [
        ("mae", "x.pth", "model.decoder_pred.bias"),
        ("dino", "x.pth", "teacher.head.mlp.0.bias"),
        ("dino", "x.pth", "teacher.backbone.cls_token"),
        ("dino", "x.safetensors", "backbone.cls_token"),
        ("moco_v3", "x.safetensors", "module.base_encoder.head.0.weight"),
    ],
)
def test_a_wrapper_is_around_encoder_and_head(tmp_path, monkeypatch, objective, output, key):
    monkeypatch.setattr(export, "encoder_of_run", lambda *_: run_of(objective, tmp_path))
    arguments = ["--workdir=x", "--with-head", f"--output={tmp_path / output}"]
    monkeypatch.setattr(sys, "argv", ["export", *arguments, f"--wrapper={objective}"])
    assert export.main() == 0
    assert key in read_tensors(tmp_path / output, allow_pth=True)
    monkeypatch.setattr(sys, "argv", ["export", *arguments, "--wrapper=moco_v2"])
    with pytest.raises(ValueError, match=f"--wrapper=moco_v2: .* --wrapper={objective}, or none"):
        export.main()


def test_newer_names_of_weight_normalisation_are_read(tmp_path):
    tensors = state_dict("dino", tmp_path)
    for kind, number in (("g", 0), ("v", 1)):
        new = f"head.last_layer.parametrizations.weight.original{number}"
        tensors[new] = tensors.pop(f"head.last_layer.weight_{kind}")
    found = imported("dino", tensors, tmp_path).heads["params"]["projector"]["last_layer"]["kernel"]
    expected = made("dino")[2]["projector"]["last_layer"]["kernel"]
    np.testing.assert_array_equal(found, expected)


def test_what_a_state_dict_does_not_say_is_said(tmp_path):
    remarks = imported("mae", state_dict("mae", tmp_path), tmp_path).remarks
    assert "heads of the head is taken to be 2: a state dict does not say" in remarks


def with_trained_lengths(tensors):
    tensors["head.last_layer.weight_g"] *= 1.5


def with_fewer_prototypes(tensors):
    for kind in "gv":
        key = f"head.last_layer.weight_{kind}"
        tensors[key] = tensors[key][:-1]


def without_a_layer(tensors):
    del tensors["head.mlp.2.bias"]


def with_batch_norm(tensors):
    tensors["head.mlp.1.running_mean"] = np.zeros(24, np.float32)


def without_head(tensors):
    for key in [key for key in tensors if key.startswith("head.")]:
        del tensors[key]


def without_wrapper(tensors):
    for key in [key for key in tensors if key.startswith("backbone.")]:
        tensors[key.removeprefix("backbone.")] = tensors.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_trained_lengths, r"weight_g: differs from 1, .* by up to 0\.5; .*--with-head"),
        (with_fewer_prototypes, r"weight_g: has shape \(19, 1\), expected \(20, 1\)"),
        (without_a_layer, r"MultiCropWrapper.*lacks head\.mlp\.2\.bias; .*leave out --with-head"),
        (with_batch_norm, r"has, without a row in the layout, head\.mlp\.1\.running_mean"),
        (without_head, r"under 'backbone\.', the file lacks head\.\* of MultiCropWrapper"),
        (without_wrapper, r"under '', the file lacks head\.\* of MultiCropWrapper"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_another_head_is_refused(tmp_path, change, message):
    tensors = state_dict("dino", tmp_path)
    change(tensors)
    with pytest.raises(ValueError, match=message):
        imported("dino", tensors, tmp_path)


def test_positions_of_another_size_of_views_are_read(tmp_path):
    run = run_of("mae", tmp_path)
    found = export.with_head(export.exported_encoder(run, "", 2 * SIZE), run)
    tensors = {key: tensor.make() for key, tensor in found.tensors.items()}
    assert tensors["decoder_pos_embed"].shape == (1, 1 + (2 * SIZE // PATCH) ** 2, 16)
    decoder = imported("mae", tensors, tmp_path).heads["params"]["decoder"]
    jax.tree.map(np.testing.assert_array_equal, decoder, run.heads["params"]["decoder"])
    tensors["decoder_pos_embed"] = np.zeros((1, 10**6 + 1, 1), np.float32)  # would take 64 MB
    with pytest.raises(ValueError, match=r"decoder_pos_embed: has shape \(1, 1000001, 1\)"):
        imported("mae", tensors, tmp_path)


@pytest.mark.parametrize("said", [None, 5, {}, {"architecture": [1]}])
def test_a_contract_without_the_head_in_its_file_is_refused(tmp_path, said):
    config, experiment, params, carry = made("mae")
    run = run_of("mae", tmp_path)
    found = export.with_head(export.exported_encoder(run), run)
    path = write(
        tmp_path / "x.safetensors", found._replace(contract={**found.contract, "head": said})
    )
    encoder, heads = experiment.encoders["s2"], experiment.objective.heads(params, carry)["s2"]
    with pytest.raises(ValueError, match="contract says nothing of the head"):
        with_head(
            import_encoder(Source(path), encoder, SIZE), config["objective"], encoder, heads, SIZE
        )


def test_a_contract_of_another_decoder_is_refused(file_of):
    config, experiment, params, carry = made("mae")
    encoder, heads = experiment.encoders["s2"], experiment.objective.heads(params, carry)["s2"]
    found = import_encoder(Source(file_of("mae")), encoder, SIZE)
    section = {**config["objective"], "decoder_heads": 4}
    with pytest.raises(ValueError, match="heads of the head is 2 in the file's contract, 4 in"):
        with_head(found, section, encoder, heads, SIZE)


@pytest.mark.parametrize(
    ("objective", "layout", "trunk", "message"),
    [
        ("simclr", "", {}, "objective 'simclr'; .* of mae, dino, moco_v3; leave out"),
        ("mae", "hf_vit", {}, "layout 'hf_vit'; MaskedAutoencoderViT.* in timm_vit; leave out"),
        ("dino", "hf_vit", {}, "layout 'hf_vit'; MultiCropWrapper"),
        ("mae", "", {"registers": 4}, "trunk.registers is 4; MaskedAutoencoderViT .* has none"),
        ("moco_v3", "", {"layer_scale": 0.1}, r"trunk.layer_scale is 0\.1; VisionTransformerMoCo"),
    ],
)
def test_what_nobody_has_published_is_refused(tmp_path, objective, layout, trunk, message):
    run = run_of(objective, tmp_path, **trunk)
    with pytest.raises(ValueError, match=f"--with-head: .*{message}"):
        export.with_head(export.exported_encoder(run, layout), run)
