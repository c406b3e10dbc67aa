"""Tests of importing files as the field's projects write them: the nesting, prefixes, heads, second
encoders, optimizers and counters of their checkpoints, around small encoders.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from exchanged import LEARNED, PLAIN, RELATIVE, S2, SIZE, encoder_of, to_torch
from reference import random_weights

from eo_jax.exchange.importing import Imported, Source, import_encoder
from eo_jax.exchange.wrappers import WRAPPERS, nested
from eo_jax.models.encoder import Encoder
from eo_jax.models.stems import conv
from eo_jax.models.trunks import resnet, vit

torch = pytest.importorskip("torch")

ONE = {"size": "nano", "depth": 1}
LEARNED_VIT = vit.Config(**ONE, **LEARNED)
SINCOS, MOCO_V3 = vit.Config(**ONE), vit.Config(**ONE, positions="sincos_moco_v3")
DINOV2 = vit.Config(**ONE, **LEARNED, layer_scale=1e-5)
REGISTERS = vit.Config(**ONE, **LEARNED, layer_scale=1e-5, registers=4)
DATA2VEC = vit.Config(**ONE, **RELATIVE)
RESNET = resnet.Config(depth=18)


def weights_of(trunk, seed: int = 0) -> tuple[Encoder, dict, dict, dict]:
    """(encoder, params, statistics, state dict in its layout, which may be changed)"""
    *weights, state = drawn(trunk, seed)
    return *weights, dict(state)


@functools.cache
def drawn(trunk, seed: int) -> tuple[Encoder, dict, dict, dict]:
    encoder = encoder_of(conv.Config() if trunk == RESNET else PLAIN, trunk, S2)
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    params, statistics = (random_weights(tree, seed) for tree in shapes)
    if trunk == DATA2VEC:
        params["trunk"]["blocks"]["layers"]["attention"]["qkv_bias"][:, 1] = 0
    if trunk == REGISTERS:
        params["trunk"]["position_embedding"]["table"][:, 0] = 0
    exported = to_torch(encoder, params, statistics, SIZE)
    state = {key: torch.from_numpy(np.array(value)) for key, value in exported.items()}
    return encoder, params, statistics, state


def under(prefix: str, state: dict, **more) -> dict:
    return {f"{prefix}{key}": value for key, value in {**state, **more}.items()}


def some(*names: str) -> dict:
    """Tensors of heads and the like; their names as the projects have them."""
    return {name: torch.ones(2, 3) for name in names}


HEAD = some("mlp.0.weight", "mlp.0.bias", "last_layer.weight_g", "last_layer.weight_v")
ADAM = {"state": {0: some("exp_avg", "exp_avg_sq")}, "param_groups": [{"lr": 1e-4, "params": [0]}]}


def dino(trunk, teacher: str) -> dict:
    """Students are in DistributedDataParallel, teachers where they have BatchNorm."""
    return {
        "student": under("module.backbone.", weights_of(trunk, 1)[3]) | under("module.head.", HEAD),
        "teacher": under(teacher, weights_of(trunk)[3])
        | under(teacher.replace("backbone", "head"), HEAD),
        "optimizer": ADAM,
        "epoch": 100,
        "dino_loss": some("center"),
    }


def mae() -> dict:
    decoder = some("mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_pred.bias")
    block = under("decoder_blocks.0.", some("norm1.weight", "attn.qkv.weight"))
    return {
        "model": weights_of(SINCOS)[3] | decoder | block,
        "optimizer": ADAM,
        "epoch": 99,
        "scaler": {"scale": 65536.0},
    }


def moco_v3() -> dict:
    head = some("head.0.weight", "head.1.running_mean")
    return {
        "epoch": 100,
        "arch": "vit_small",
        "state_dict": under("module.base_encoder.", weights_of(MOCO_V3)[3] | head)
        | under("module.momentum_encoder.", weights_of(MOCO_V3, 1)[3] | head)
        | under("module.predictor.", some("0.weight")),
        "optimizer": ADAM,
    }


def moco_v2() -> dict:
    head = some("fc.0.weight", "fc.0.bias", "fc.2.weight")
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": under("module.encoder_q.", weights_of(RESNET)[3] | head)
        | under("module.encoder_k.", weights_of(RESNET, 1)[3] | head)
        | under("module.", {**some("queue"), "queue_ptr": torch.zeros(1, dtype=torch.int64)}),
    }


def dinov2() -> dict:
    return {
        "teacher": under("backbone.", weights_of(DINOV2)[3], mask_token=torch.zeros(1, 96))
        | under("dino_head.", HEAD)
        | under("ibot_head.", HEAD)
    }


def dinov2_registers() -> dict:
    """The hub's file: registers by another name, positions with the class token's."""
    state = weights_of(REGISTERS)[3]
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.full((1, 1, 96), 0.5), state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - 0.5
    return state | {"mask_token": torch.zeros(1, 96)}


def timm_registers() -> dict:
    """timm's default with registers: each token has a position."""
    state, shift = weights_of(REGISTERS)[3], torch.full((1, 5, 96), 0.5)
    state["pos_embed"] = torch.cat([shift, state["pos_embed"]], dim=1)
    for name in ("cls_token", "reg_token"):
        state[name] = state[name] - 0.5
    return state


def data2vec() -> dict:
    buffer = {"rel_pos_bias.relative_position_index": torch.zeros(17, 17, dtype=torch.int64)}
    return {
        "model": weights_of(DATA2VEC)[3] | buffer | some("mask_token", "lm_head.weight"),
        "epoch": 99,
    }


def spectral_earth(first: str, second: str) -> dict:
    return {
        "epoch": 9,
        "pytorch-lightning_version": "2.2",
        "state_dict": under(first, weights_of(LEARNED_VIT)[3])
        | under(second, weights_of(LEARNED_VIT, 1)[3]),
    }


def with_classifier() -> dict:
    """torchgeo's and SSL4EO-S12's files of encoders alone, here with a classifier."""
    return weights_of(LEARNED_VIT)[3] | some("head.weight", "head.bias")


def with_fc() -> dict:
    return weights_of(RESNET)[3] | some("fc.weight")


# name: (trunk, content, the prefix that is found, what is left out)
FILES = {
    "torchgeo": (LEARNED_VIT, with_classifier, "", ["head.* (2 tensors)"]),
    "torchgeo_resnet": (
        RESNET,
        lambda: weights_of(RESNET)[3] | some("fc.weight"),
        "",
        ["fc.* (1 tensor)"],
    ),
    "dino": (
        LEARNED_VIT,
        lambda: dino(LEARNED_VIT, "backbone."),
        "teacher.backbone.",
        ["student.* (22 ", "teacher.head.* (4 tensors)", "dino_loss.*", "optimizer.*"],
    ),
    "dino_resnet": (
        RESNET,
        lambda: dino(RESNET, "module.backbone."),
        "teacher.module.backbone.",
        ["student.*", "teacher.module.head.* (4 tensors)"],
    ),
    "dinov2": (DINOV2, dinov2, "teacher.backbone.", ["teacher.dino_head", "teacher.ibot_head"]),
    "dinov2_registers": (REGISTERS, dinov2_registers, "", ["mask_token"]),
    "timm_registers": (REGISTERS, timm_registers, "", []),
    "mae": (
        SINCOS,
        mae,
        "model.",
        ["model.decoder_blocks.* (2 tensors)", "model.mask_token (1 tensor)", "optimizer.*"],
    ),
    "moco_v3": (
        MOCO_V3,
        moco_v3,
        "state_dict.module.base_encoder.",
        ["momentum_encoder.*", "predictor.* (1 tensor)", "base_encoder.head.* (2 tensors)"],
    ),
    "moco_v2": (
        RESNET,
        moco_v2,
        "state_dict.module.encoder_q.",
        ["encoder_k.*", "encoder_q.fc.* (3 tensors)", "module.queue (1 tensor)"],
    ),
    "data2vec": (
        DATA2VEC,
        data2vec,
        "model.",
        ["lm_head.* (1 tensor)", "rel_pos_bias.* (1 tensor)"],
    ),
    "lightning_moco": (
        LEARNED_VIT,
        lambda: spectral_earth("backbone.", "backbone_momentum."),
        "state_dict.backbone.",
        ["backbone_momentum"],
    ),
    "lightning_dino": (
        LEARNED_VIT,
        lambda: spectral_earth("teacher_backbone.", "student_backbone."),
        "state_dict.teacher_backbone.",
        ["student_backbone"],
    ),
}


def imported(path: Path, encoder: Encoder, **fields) -> Imported:
    return import_encoder(Source(path, allow_pth=True, **fields), encoder, SIZE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if trunk == RESNET else name
        for name, (trunk, *_) in FILES.items()
    ],
)
def test_a_checkpoint_of_the_field_gives_its_encoder_and_lists_the_rest(tmp_path, name):
    trunk, content, prefix, left_out = FILES[name]
    torch.save(content(), tmp_path / "file.pth")
    encoder, params, statistics, _ = weights_of(trunk)
    found = imported(tmp_path / "file.pth", encoder)
    assert f"prefix {prefix!r}" in found.remarks
    left = "\n".join(line for line in found.remarks if line.startswith("left out"))
    assert all(part in left for part in left_out), left
    close = 1e-6 if "registers" in name else 0  # sums of tokens and their positions
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=close),
        (found.params, found.statistics),
        (params, statistics),
    )


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_is_exported_for_the_scripts_of_others_is_read_again(tmp_path, name):
    encoder, params, _, state = weights_of(LEARNED_VIT)
    wrapper = WRAPPERS[name]
    content = nested(under(wrapper.prefix, state), wrapper, "vit")
    torch.save(content, tmp_path / "file.pth")
    found = imported(tmp_path / "file.pth", encoder)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert not [line for line in found.remarks if line.startswith("left out")]


def test_two_branches_of_one_file_are_chosen_by_prefix(tmp_path):
    first, second = weights_of(LEARNED_VIT, 1)[3], weights_of(LEARNED_VIT)[3]
    content = under("module.backbone_1.", first) | under("module.backbone_2.", second)
    torch.save(content, tmp_path / "joint.pth")
    encoder, params, _, _ = weights_of(LEARNED_VIT)
    with pytest.raises(ValueError, match=r"several encoders.*backbone_1.*--prefix"):
        imported(tmp_path / "joint.pth", encoder)
    found = imported(tmp_path / "joint.pth", encoder, prefix="module.backbone_2.")
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_a_file_with_a_namespace_is_refused_and_the_way_out_works(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(mae() | {"args": argparse.Namespace(lr=1e-4)}, path)
    encoder, _, _, _ = weights_of(SINCOS)
    with pytest.raises(ValueError, match=r"not loaded.*Namespace.*safe_globals"):
        imported(path, encoder)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    torch.save(content["model"], path)
    assert imported(path, encoder).params


def test_a_classifier_with_fc_norm_is_refused(tmp_path):
    """The mean of normalised tokens is not the normalised mean of tokens."""
    encoder, _, _, state = weights_of(LEARNED_VIT)
    for part in ("weight", "bias"):
        state[f"fc_norm.{part}"] = state.pop(f"norm.{part}")
    torch.save({"model": state}, tmp_path / "finetuned.pth")
    with pytest.raises(ValueError, match=r"fc_norm, which normalises the mean"):
        imported(tmp_path / "finetuned.pth", encoder)


def test_positions_without_one_of_the_class_token_are_read(tmp_path):
    """timm's no_embed_class, as DeiT III has it."""
    encoder, params, _, state = weights_of(LEARNED_VIT)
    state["pos_embed"] = state["pos_embed"][:, 1:]
    torch.save(state, tmp_path / "deit3.pth")
    table = imported(tmp_path / "deit3.pth", encoder).params["trunk"]["position_embedding"]["table"]
    expected = params["trunk"]["position_embedding"]["table"]
    np.testing.assert_array_equal(table[:, 1:], expected[:, 1:])
    assert (table[:, 0] == 0).all()


def test_positions_of_patches_alone_are_resampled_without_the_first(tmp_path):
    encoder, _, _, state = weights_of(REGISTERS)
    state["pos_embed"] = torch.full((1, 64, 96), 0.25)
    torch.save(state, tmp_path / "larger.pth")
    found = imported(tmp_path / "larger.pth", encoder)
    assert "pos_embed: resampled from 8 x 8 to 4 x 4" in found.remarks
    table = found.params["trunk"]["position_embedding"]["table"]
    assert (table[:, 0] == 0).all()
    np.testing.assert_allclose(table[:, 1:], 0.25, rtol=1e-6)
