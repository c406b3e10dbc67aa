"""What is trained in the measurements: configs of realistic size, and the same in miniature."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.scale import Scale
from benchmarks.step_workloads import Workload, batch_of, complete_config
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.schema import Batch

_DRAWN = 8  # rows of a batch that differ: drawing 1.7 GB takes the host longer than all its steps


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective on a workload.

    Attributes:
        trunk: `config.model.trunk`.
        batch: samples per step.
    """

    objective: str
    work: Workload
    trunk: Mapping[str, Any]
    batch: int


def _vit(size: str) -> dict[str, Any]:
    return {"name": "vit", "size": size}


def _enmap(patch: int) -> Workload:
    """As configs/mae_spectral_earth.py, with tokens of this size."""
    crop = {
        "size": 128,
        "scale": (0.4, 1.0),
        "interpolation": "bilinear_corners",
        "flips": "both",
    }
    stem = {"name": "spectral_adapter", "patch": patch}
    return Workload("enmap", 128, stem, {"global": crop}, {"mask_ratio": 0.9, "decoder_depth": 1})


_DISTORTED = {
    "flips": "left_right",
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "jitter_prob": 0.8,
    "grayscale_prob": 0.2,
    "blur_prob": 0.5,
}
_PAIR = {"global": {"views": 2, "size": 224, "scale": (0.2, 1.0), **_DISTORTED}}
_LOCAL = {"views": 8, "size": 96, "scale": (0.05, 0.4), **_DISTORTED}
_PATCHES = {"name": "patch_embed", "patch": 16}
_RESNET50 = {"name": "resnet", "depth": 50}
CASES = {
    # MAE's own recipe (arXiv 2111.06377): mask ratio 0.75, a decoder of 8 blocks 512 wide.
    "mae_rgb_vit_l": Case(
        "mae",
        Workload(
            "geonrw_rgb",
            224,
            _PATCHES,
            {"global": {"size": 224, "scale": (0.2, 1.0), "flips": "left_right"}},
        ),
        _vit("large"),
        512,
    ),
    "mae_enmap_vit_s4": Case("mae", _enmap(4), _vit("small"), 256),
    "mae_enmap_vit_b8": Case("mae", _enmap(8), _vit("base"), 256),
    "mae_enmap_vit_l4": Case("mae", _enmap(4), _vit("large"), 256),
    "mae_enmap_vit_l8": Case("mae", _enmap(8), _vit("large"), 256),
    "dino_rgb_vit_l": Case(
        "dino",
        Workload("geonrw_rgb", 224, _PATCHES, {**_PAIR, "local": _LOCAL}),
        _vit("large"),
        64,
    ),
    "barlow_s2_resnet50": Case(
        "barlow_twins", Workload("sentinel2_l1c", 224, _PATCHES, _PAIR), _RESNET50, 256
    ),
    "moco_s2_resnet50": Case(
        "moco", Workload("sentinel2_l1c", 224, _PATCHES, _PAIR), _RESNET50, 256
    ),
}
_SMALL_SIZES = {224: 48, 128: 32, 96: 32}
_SMALL_SECTIONS = {
    "mae": {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4},
    "dino": {"prototypes": 64, "hidden": 32, "bottleneck": 16},
    "barlow_twins": {"projector": (32, 32)},
    "moco": {"projector": (32, 16), "queue_size": 64, "bn_group": 4},
}


def config_of(name: str, scale: Scale, trunk: Mapping[str, Any], section: Mapping[str, Any]) -> Any:
    """The complete config of a case; `trunk` and `section` are merged into `config.model.trunk` and
    `config.objective`.
    """
    case = scale.pick(CASES.get, _miniature)(name)
    work = dataclasses.replace(case.work, section={**case.work.section, **section})
    return complete_config(case.objective, work, {**case.trunk, **trunk}, case.batch)


def experiment_of(name: str, scale: Scale) -> Experiment:
    """The experiment of a case."""
    return make_experiment(config_of(name, scale, {}, {}))


def _miniature(name: str) -> Case:
    case = CASES[name]
    crops = {
        which: {**crop, "size": _SMALL_SIZES[crop["size"]]}
        for which, crop in case.work.crops.items()
    }
    work = dataclasses.replace(
        case.work,
        side=_SMALL_SIZES[case.work.side],
        stem={**case.work.stem, "patch": min(case.work.stem["patch"], 8)},
        crops=crops,
        section={**case.work.section, **_SMALL_SECTIONS[case.objective]},
    )
    small = {"size": "nano", "depth": 2} if case.trunk["name"] == "vit" else {"depth": 18}
    return dataclasses.replace(case, work=work, trunk={**case.trunk, **small}, batch=8)


def repeated_batch_of(experiment: Experiment) -> Batch:
    """A batch of few different rows, on the device."""
    data = experiment.data
    times = max(1, data.batch_size // _DRAWN)
    few = dataclasses.replace(data, batch_size=data.batch_size // times)
    drawn = batch_of(dataclasses.replace(experiment, data=few))
    return jax.tree.map(lambda x: jnp.tile(x, (times, *[1] * (x.ndim - 1))), drawn)
