"""Tests of what is published beside weights: config.json, model card, STAC item, torchgeo entry."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import hashlib
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import stac_mlm
from exchanged import ENCODERS, PLAIN, S2, SIZE, encoder_of, weighted
from exported import fingerprint
from reference import relative_error
from safetensors.numpy import load_file

from eo_jax.exchange import publishing
from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.figures import figures_of
from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.stac import stac_item
from eo_jax.exchange.tensor import Tensor
from eo_jax.exchange.torchgeo_entry import torchgeo_model, weights_entry
from eo_jax.exchange.translation import tensors_of
from eo_jax.exchange.writing import write_safetensors
from eo_jax.models.encoder import Encoder
from eo_jax.models.stems import conv
from eo_jax.models.trunks import resnet, vit

LINES = [
    {"step": 2, "eval/knn/accuracy": 0.25, "loss": 1.0},
    {"step": 5, "eval/knn/accuracy": 0.5, "eval/linear_probe/s2/kappa": None},
    {"step": 7, "eval/linear_probe/s2/kappa": 0.75},
    {"step": 9, "eval/knn/accuracy": 1.0},  # of a later state
]


def contract_of(layout: str, encoder=None, size: int = SIZE) -> dict:
    """A contract that may be changed."""
    return copy.deepcopy(made(layout, encoder or encoder_of(*ENCODERS[layout]), size))


@functools.cache
def made(layout: str, encoder: Encoder, size: int) -> dict:
    config = {"objective": {"name": "dino", "momentum": 0.996}}
    data = fingerprint(encoder.sensor)
    return make_contract("s2.teacher", encoder, layout, size, data, config, 7)


def published(folder: Path, layout: str) -> tuple[dict, list[str]]:
    """(contract, names of the files)"""
    encoder, params, statistics = weighted(layout)
    tensors = tensors_of(LAYOUTS[layout], encoder, params, statistics, SIZE)
    contract = contract_of(layout)
    files = publishing.publish(folder, encoder, tensors, contract, LINES)
    return contract, [file.name for file in files]


def front_matter(card: str) -> dict:
    """The YAML block of a card whose values are JSON."""
    _, block, _ = card.split("---\n", 2)
    return {
        key: json.loads(value) if value[0] in '"[{' else value
        for key, value in (line.split(": ", 1) for line in block.splitlines())
    }


def test_a_folder_has_all_that_the_hub_shows(tmp_path):
    contract, files = published(tmp_path / "new", "hf_vit")
    assert files == ["README.md", "config.json", "model.safetensors", "stac_item.json"]
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["architectures"] == ["ViTModel"]
    assert (config["num_attention_heads"], config["layer_norm_eps"]) == (3, 1e-6)
    assert (
        config["num_channels"]
        == load_file(tmp_path / "new" / "model.safetensors")[
            "embeddings.patch_embeddings.projection.weight"
        ].shape[1]
    )
    card = (tmp_path / "new" / "README.md").read_text()
    said = front_matter(card)
    assert said["library_name"] == "transformers"
    assert said["pipeline_tag"] == "image-feature-extraction"
    knn, probe = said["model-index"][0]["results"]
    assert knn["metrics"] == [{"type": "accuracy", "value": 0.5}]
    assert probe["metrics"] == [{"type": "kappa", "value": 0.75}]
    assert knn["dataset"]["name"] and knn["task"]["type"]
    assert "| knn |  | accuracy | 0.5 | 5 |" in card
    assert "licence of the data | CC-BY-4.0" in card
    for band, mean in zip(contract["sensor"]["bands"]["name"], contract["mean"], strict=True):
        assert f"| {band} | " in card and f" | {mean:.6g} | " in card
    with pytest.raises(ValueError, match=r"--publish: .*new is not empty"):
        published(tmp_path / "new", "hf_vit")


def test_layouts_of_others_have_the_contract_as_config(tmp_path):
    contract, _ = published(tmp_path, "timm_vit")
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(contract))


def test_values_of_a_run_cannot_break_the_card(tmp_path):
    contract = contract_of("timm_vit")
    contract["data"] |= {"store": 'a|b\n---\n<script>"', "licence": "x\n# heading"}
    card = publishing.model_card(contract, "name", "", "model.safetensors", figures_of(LINES, 7))
    assert front_matter(card)["model-index"][0]["results"][0]["dataset"]["type"].startswith("a|b")
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body and "\n# heading" not in body and "a\\|b --- " in body


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cards_python_can_be_parsed(layout):
    contract = contract_of(layout)
    name = publishing.model_class(layout, encoder_of(*ENCODERS[layout]))
    card = publishing.model_card(contract, "name", name, "a.safetensors", [])
    ast.parse(python_of(card))
    assert "model-index" not in front_matter(card) and "has no scores" in card


def python_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def digital_numbers(contract: dict) -> tuple[np.ndarray, np.ndarray]:
    """(pixels with a value that is no data, what a network has to see) [b, c, h, w]."""
    mean, std = (np.array(contract[x], np.float32)[:, None, None] for x in ("mean", "std"))
    pixels = np.random.default_rng(0).integers(1, 4000, (2, len(mean), SIZE, SIZE), np.uint16)
    view = (pixels - mean) / std
    if contract["sensor"]["nodata"] is not None:
        pixels[0, 3, 5, 6], view[0, 3, 5, 6] = contract["sensor"]["nodata"], 0
    return pixels, view


def with_no_data(layout: str, trunk=None, size: int = SIZE) -> dict:
    encoder = encoder_of(PLAIN, trunk, S2) if trunk else None
    contract = contract_of(layout, encoder, size)
    contract["sensor"]["nodata"] = 0
    return contract


def test_the_cards_python_shows_a_network_0_where_there_is_no_data(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    contract, seen = with_no_data("hf_vit"), []

    class Model:
        @staticmethod
        def from_pretrained(folder, add_pooling_layer):
            return lambda view: seen.append(view) or types.SimpleNamespace(last_hidden_state=view)

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(ViTModel=Model))
    monkeypatch.chdir(tmp_path)
    tensors = {"w": Tensor((1,), "float32", lambda: np.ones(1, np.float32))}
    write_safetensors(Path("model.safetensors"), tensors, to_header(sealed(contract, tensors)))
    card = publishing.model_card(contract, "name", "ViTModel", "model.safetensors", [])
    pixels, view = digital_numbers(contract)
    names = {"pixels": torch.from_numpy(pixels), "bands": contract["sensor"]["bands"]["name"]}
    exec(python_of(card), names)
    np.testing.assert_allclose(seen[0].numpy(), view, atol=1e-6)


def test_torchgeos_transforms_give_0_where_there_is_no_data():
    torch = pytest.importorskip("torch")
    contract = with_no_data("timm_vit", SMALL, 224)
    (function,) = [
        node
        for node in ast.parse(weights_entry(contract, "")).body
        if isinstance(node, ast.FunctionDef)
    ]
    mean = np.array(contract["mean"], np.float32)
    names = {"torch": torch, "Tensor": torch.Tensor, "_sentinel2_all_dino_mean": mean.tolist()}
    exec(ast.unparse(function), names)
    pixels, view = digital_numbers(contract)
    filled = names[function.name](torch.from_numpy(pixels.astype(np.float32))).numpy()
    std = np.array(contract["std"], np.float32)[:, None, None]
    np.testing.assert_allclose((filled - mean[:, None, None]) / std, view, atol=1e-6)
    label = torch.zeros(4, 4)
    assert names[function.name](label) is label


PUBLISHED = [name for name in LAYOUTS if name.startswith(("timm", "torchvision", "beit", "hf"))]


@pytest.mark.slow
@pytest.mark.parametrize("layout", PUBLISHED)
def test_the_cards_python_gives_the_encoders_features(tmp_path, monkeypatch, layout):
    """Where the library is installed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers" if layout.startswith("hf") else "timm")
    contract, _ = published(tmp_path, layout)
    monkeypatch.chdir(tmp_path)
    pixels, view = digital_numbers(contract)
    names = {"pixels": torch.from_numpy(pixels), "bands": contract["sensor"]["bands"]["name"]}
    exec(python_of(Path("README.md").read_text()), names)
    encoder, params, statistics = weighted(layout)
    view = np.moveaxis(view, 1, -1)
    valid = jax.numpy.ones((*view.shape[:3], 1), bool)
    expected = jax.jit(encoder.features)(params, statistics, view, valid)["pooled"]
    assert relative_error(names["features"].numpy(), expected) < 1e-4


def test_figures_are_those_of_the_weights_own_step():
    found = {figure.metric: (figure.value, figure.step) for figure in figures_of(LINES, 7)}
    assert found == {"accuracy": (0.5, 5), "kappa": (0.75, 7)}
    assert figures_of(LINES, 1) == []


# --- STAC


def item_of(layout: str) -> dict:
    return stac_item(contract_of(layout), "vit_tiny_dino_s2", ["model.safetensors"], 5, 20)


@pytest.mark.parametrize("layout", ["timm_vit", "torchvision_resnet", "spec_vit", "spectral_cnn"])
def test_the_stac_item_follows_the_rules_of_the_extension(layout):
    item = item_of(layout)
    assert stac_mlm.mistakes(item) == []
    (given,) = item["properties"]["mlm:input"]
    contract = contract_of(layout)
    assert [entry["mean"] for entry in given["value_scaling"]] == contract["mean"]
    assert given["bands"] == contract["sensor"]["bands"]["name"]


@pytest.mark.parametrize("name", ["1 model/of: things", "é", "a"])
def test_any_name_becomes_one_that_the_extension_allows(name):
    item = stac_item(contract_of("timm_vit"), name, ["a.safetensors", "b.safetensors"], 5, 20)
    assert stac_mlm.mistakes(item) == []
    assert [asset["href"] for asset in item["assets"].values()][:2] == [
        "a.safetensors",
        "b.safetensors",
    ]


def broken(path: str, value) -> dict:
    """The item with one value changed, at "properties/mlm:input/0/name"; `...` removes it."""
    item = copy.deepcopy(item_of("timm_vit"))
    at, *keys = item, *path.split("/")
    for key in keys[:-1]:
        at = at[int(key) if isinstance(at, list) else key]
    if value is ...:
        del at[keys[-1]]
    else:
        at[int(keys[-1]) if isinstance(at, list) else keys[-1]] = value
    return item


BROKEN = {
    "properties/mlm:name": "x",
    "properties/mlm:tasks": ["embedding"],
    "properties/mlm:output": ...,
    "properties/mlm:artifact_type": "safetensors",
    "properties/mlm:accelerator": "tpu",
    "properties/mlm:framework_version": "0.4",
    "properties/mlm:hyperparameters": {},
    "properties/datetime": ...,
    "properties/end_datetime": ...,
    "properties/bands": [{"name": "B4"}],
    "properties/mlm:input/0/bands": [],
    "properties/mlm:input/0/input/dim_order": ["batch", "channel", "height", "width"],
    "properties/mlm:input/0/input/shape": [-1, 3, 64, 64],
    "properties/mlm:input/0/value_scaling/0": {"type": "z-score", "mean": [1.0], "stddev": [1.0]},
    "properties/mlm:output/0/result/shape": [-1],
    "assets/weights/mlm:artifact_type": ...,
    "assets/weights/bands": ...,
    "stac_extensions": [],
}


@pytest.mark.parametrize("path", BROKEN)
def test_the_rules_find_a_mistake(path):
    assert len(stac_mlm.mistakes(broken(path, BROKEN[path]))) >= 1


# --- torchgeo

SMALL = vit.Config(size="small")


@pytest.mark.slow
def test_a_resnet_gets_torchgeos_entry_and_a_file_with_its_checksum(tmp_path):
    pytest.importorskip("torch")
    _, files = published(tmp_path, "torchvision_resnet")
    (pth,) = [name for name in files if name.endswith(".pth")]
    digest = hashlib.sha256((tmp_path / pth).read_bytes()).hexdigest()
    assert pth == f"resnet18_sentinel2_all_dino-{digest[:8]}.pth"
    text = (tmp_path / "torchgeo_weights.py.txt").read_text()
    assert f"<commit, 40 digits>/{pth}'" in text
    assert "In class ResNet18_Weights" in text


def entry(text: str) -> tuple[str, dict[str, ast.expr]]:
    """(member, arguments of Weights)"""
    assign = ast.parse(text).body[-1]
    return assign.targets[0].id, {word.arg: word.value for word in assign.value.keywords}


def test_the_entry_has_what_torchgeos_tests_ask_for():
    contract = contract_of("timm_vit", encoder_of(PLAIN, SMALL, S2), 224)
    member, words = entry(weights_entry(contract, ""))
    meta = ast.literal_eval(words["meta"])
    assert member == "SENTINEL2_ALL_DINO"
    assert meta["model"] == "vit_small_patch16_224" and meta["ssl_method"] == "dino"
    assert len(meta["bands"]) == meta["in_chans"] == 13 and "B8a" in meta["bands"]
    assert {"dataset", "publication", "repo"} <= meta.keys() and "img_size" not in meta
    assert "<first 8 digits of its sha256>.pth" in ast.literal_eval(words["url"])


@pytest.mark.parametrize(
    ("trunk", "size", "expected"),
    [
        (SMALL, 224, ("ViTSmall16", "vit_small_patch16_224")),
        (SMALL, 96, None),  # timm's has positions for 224 pixels
        (dataclasses.replace(SMALL, depth=2), 224, None),
        (dataclasses.replace(SMALL, registers=4), 224, None),
        (dataclasses.replace(SMALL, layer_scale=1e-5), 224, None),  # patches of 14 there
        (vit.Config(size="tiny"), 224, None),
    ],
)
def test_only_networks_that_torchgeo_builds_have_an_entry(trunk, size, expected):
    contract = contract_of("timm_vit", encoder_of(PLAIN, trunk, S2), size)
    assert torchgeo_model(contract) == expected


def test_a_resnet_of_other_depth_has_none():
    encoder = encoder_of(conv.Config(), resnet.Config(depth=34), S2)
    assert torchgeo_model(contract_of("torchvision_resnet", encoder)) is None
