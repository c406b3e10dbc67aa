"""The measurements, most important first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement, which runs in a process of its own.

    Attributes:
        name: in the results, and for --only.
        seconds: planned for one H200, compilation included, imports left out. A row that takes
            twice as long is ended.
        measure: "module.function" of this package: (scale, **settings) -> figures, a dict after the
            other, so that those before a failure stay.
        settings: keyword arguments of `measure`.
        environment: variables of the process.
        over: the row whose samples/s are divided by those of this one.
    """

    name: str
    seconds: int
    measure: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    over: str = ""


def _step(case: str, seconds: int) -> Row:
    return Row(case, seconds, "steps.whole_step", {"case": case})


def _parts(case: str, seconds: int) -> Row:
    return Row(f"{case}_parts", seconds, "steps.mae_parts", {"case": case})


def _twin(case: str, seconds: int) -> Row:
    # The GPU is PyTorch's alone; JAX only describes the network.
    on_cpu = {"JAX_PLATFORMS": "cpu"}
    return Row(f"torch_{case}", seconds, "twins.compiled_twin", {"case": case}, on_cpu, case)


def _feeding(case: str, format: str, seconds: int) -> Row:
    settings = {"case": case, "format": format}
    return Row(f"loader_{case}_{format}", seconds, "feeding.fed_step", settings)


def _variant(case: str, name: str, seconds: int, **changes: Any) -> Row:
    """A case with changes of its config."""
    settings = {"case": case, **changes}
    return Row(f"{case}_{name}", seconds, "steps.whole_step", settings)


def _flags(case: str, name: str, seconds: int, flags: str) -> Row:
    """A case with flags of XLA, which ends the process if it does not know one."""
    environment = {"XLA_FLAGS": flags}
    return Row(f"{case}_{name}", seconds, "steps.whole_step", {"case": case}, environment)


def _cudnn(case: str, remat: str, seconds: int) -> Row:
    settings = {"case": case, "attention": "cudnn", "remat": remat}
    name = f"{case}_cudnn_remat_{remat}"
    return Row(name, seconds, "variants.step_with_attention", settings)


# The first ones are planned for nine minutes together.
MAIN = (
    Row("matrix_products", 12, "products.peak"),
    _step("mae_rgb_vit_l", 35),
    _step("mae_enmap_vit_s4", 22),
    _step("mae_enmap_vit_b8", 22),
    _step("mae_enmap_vit_l8", 30),
    _parts("mae_enmap_vit_s4", 40),
    _step("dino_rgb_vit_l", 50),
    _step("barlow_s2_resnet50", 35),
    _step("moco_s2_resnet50", 35),
    _twin("mae_rgb_vit_l", 45),
    _twin("dino_rgb_vit_l", 60),
    _feeding("mae_enmap_vit_l4", "zarr", 50),
    Row("checkpoint_stall", 40, "saving.checkpoint_stall", {"case": "mae_rgb_vit_l"}),
    Row("equal_runs", 60, "reruns.equal_runs"),
)
EXPLORATORY = (
    _parts("mae_enmap_vit_b8", 45),
    _parts("mae_enmap_vit_l8", 55),
    _parts("mae_rgb_vit_l", 55),
    _step("mae_enmap_vit_l4", 35),
    _feeding("mae_enmap_vit_l4", "zarr-raw", 50),
    _feeding("mae_enmap_vit_s4", "zarr-raw", 45),
    _twin("mae_enmap_vit_s4", 45),
    _twin("mae_enmap_vit_l8", 50),
    _twin("barlow_s2_resnet50", 50),
    _twin("moco_s2_resnet50", 60),
    Row("attention_layers", 60, "variants.attention_layers"),
    _cudnn("mae_rgb_vit_l", "none", 40),
    _cudnn("mae_rgb_vit_l", "cheap", 40),
    _cudnn("mae_enmap_vit_s4", "none", 30),
    _variant(
        "mae_rgb_vit_l",
        "remat_none",
        45,
        trunk={"remat": "none"},
        section={"decoder_remat": "none"},
    ),
    _variant("mae_rgb_vit_l", "remat_block", 45, trunk={"remat": "block"}),
    _variant("mae_rgb_vit_l", "unrolled", 90, trunk={"loop": "unrolled"}),
    _variant("mae_enmap_vit_s4", "unrolled", 60, trunk={"loop": "unrolled"}),
    _variant(
        "mae_enmap_vit_s4",
        "unrolled_remat_none",
        60,
        trunk={"loop": "unrolled", "remat": "none"},
        section={"decoder_remat": "none"},
    ),
    _flags("mae_enmap_vit_s4", "no_command_buffers", 30, "--xla_gpu_enable_command_buffer="),
    _flags("mae_rgb_vit_l", "no_command_buffers", 45, "--xla_gpu_enable_command_buffer="),
    _flags("mae_rgb_vit_l", "cublas_only", 45, "--xla_gpu_enable_triton_gemm=false"),
    _flags("mae_rgb_vit_l", "deterministic", 45, "--xla_gpu_exclude_nondeterministic_ops=true"),
    Row("padded_tokens", 60, "variants.padded_tokens"),
    Row("flat_adamw", 25, "variants.flat_adamw", {"case": "mae_rgb_vit_l"}),
)
ROWS = {row.name: row for row in (*MAIN, *EXPLORATORY)}
