"""The model card of exported weights: README.md of a repository of Hugging Face, with the YAML
block that the Hub reads.

A licence is not chosen here: the contract knows that of the data, the weights' is the publisher's.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from eo_jax.exchange.figures import Figure
from eo_jax.exchange.hf_config import SEGFORMER_EPSILON

_TEMPLATE = "card.md"
_LIBRARIES = {"hf": "transformers", "timm": "timm", "torchvision": "timm", "beit": "timm"}


def model_card(
    contract: Mapping[str, Any],
    name: str,
    model_class: str,
    weights: str,
    figures: Sequence[Figure],
) -> str:
    """The text of README.md.

    Args:
        name: of the model: "vit_small_dino_sentinel2_l1c".
        model_class: of transformers: "ViTModel"; "" for layouts of others.
        weights: name of the file beside it that is loaded: the weights, or the index of shards.
        figures: of the run.
    """
    environment = Environment(
        loader=PackageLoader("eo_jax.exchange"),
        autoescape=False,  # Markdown; values pass `cell` or `yaml`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"yaml": _yaml, "cell": _cell}
    return environment.get_template(_TEMPLATE).render(
        contract=contract,
        name=name,
        library=library_of(contract),
        bands=_band_rows(contract),
        load=load_snippet(contract, model_class, weights),
        figures=figures,
        model_index=_model_index(contract, name, figures),
    )


def library_of(contract: Mapping[str, Any]) -> str:
    """The library whose class has these weights; "eo_jax" where none has."""
    return _LIBRARIES.get(contract["layout"].partition("_")[0], "eo_jax")


def load_snippet(contract: Mapping[str, Any], model_class: str, weights: str) -> str:
    """Python that loads the weights in this folder into `model` and gives `features` of `pixels`,
    digital numbers [batch, band, row, column] of the bands that `bands` names.
    """
    return "\n".join(
        [
            *_imports(contract, model_class),
            "",
            *_loading(contract, model_class, weights),
            "",
            "# 0 where there is no data, as in training; other bands and products are refused",
            "prepare = eo_jax_torch.Input(contract)",
            f"view = prepare(pixels, sensor={json.dumps(contract['sensor']['id'])}, bands=bands)",
            "with torch.no_grad():",
            *_forward(contract, model_class),
        ]
    )


def _imports(contract: Mapping[str, Any], model_class: str) -> list[str]:
    lines = ["import re", ""] if contract["layout"] == "hf_segformer" else []
    if model_class:
        lines += ["import transformers"]
    elif library_of(contract) == "timm":
        lines += ["import timm", "import timm.models.beit"]
    return [*lines, "import torch", "", "import eo_jax_torch  # a file of eo_jax, to copy"]


def _loading(contract: Mapping[str, Any], model_class: str, weights: str) -> list[str]:
    if model_class:
        no_pooler = contract["layout"] in ("hf_vit", "hf_data2vec")
        more = ", add_pooling_layer=False" if no_pooler else ""
        epsilon = contract["layout"] == "hf_segformer"
        return [
            f'model = transformers.{model_class}.from_pretrained("."{more})',
            *(SEGFORMER_EPSILON.splitlines() if epsilon else []),
            f'contract, _ = eo_jax_torch.read("{weights}")',
        ]
    call = contract["constructor"]
    return [
        f"model = {call}" if library_of(contract) == "timm" else f"model = ...  # {call}",
        f'contract = eo_jax_torch.load_encoder("{weights}", model)',
        "model.eval()",
    ]


def _forward(contract: Mapping[str, Any], model_class: str) -> list[str]:
    if library_of(contract) == "eo_jax":
        return [f"    out = model(view)  # pooled feature: {contract['pooling']}"]
    out = "model(view).last_hidden_state" if model_class else "model.forward_features(view)"
    if contract["pool"] == "image":
        return [f"    maps = {out}", "    features = maps.mean((2, 3))"]
    prefix = 1 + contract["architecture"]["registers"]
    pooled = "tokens[:, 0]" if contract["pool"] == "cls" else f"tokens[:, {prefix}:].mean(1)"
    return [f"    tokens = {out}", f"    features = {pooled}"]


def _band_rows(contract: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(name, centre in nm, FWHM in nm, mean, standard deviation)"""
    bands = contract["sensor"]["bands"]
    names = bands["name"]
    columns = [bands.get(field) or [None] * len(names) for field in ("centre_nm", "fwhm_nm")]
    numbers = zip(*columns, contract["mean"], contract["std"], strict=True)
    return [
        (name, *("" if x is None else f"{x:.6g}" for x in row))
        for name, row in zip(names, numbers, strict=True)
    ]


def _model_index(
    contract: Mapping[str, Any], name: str, figures: Sequence[Figure]
) -> list[dict[str, Any]]:
    """The Hub's form of figures: one result per evaluator and source."""

    def key(figure: Figure) -> tuple[str, str]:
        return figure.evaluator, figure.source

    store = contract["data"]["store"]
    results = [
        {
            "task": {"type": "image-feature-extraction", "name": evaluator},
            "dataset": {"type": store, "name": f"{store} {source}".strip()},
            "metrics": [{"type": x.metric, "value": x.value} for x in group],
        }
        for (evaluator, source), group in itertools.groupby(sorted(figures, key=key), key)
    ]
    return [{"name": name, "results": results}]


def _yaml(value: Any) -> str:
    """A value as JSON, which YAML reads."""
    return json.dumps(value, allow_nan=False)


def _cell(value: Any) -> str:
    """A text on one line without Markdown's and HTML's own characters."""
    return re.sub(r"([|<>`*\[\]\\])", r"\\\1", " ".join(str(value).split()))
