"""What a train step costs: XLA's counts of the compiled step, and CPU time.

Blocks are unrolled, since XLA counts the body of a loop once.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.step_workloads import (
    Workload,
    batch_of,
    compile_step,
    complete_config,
    recipe_of,
    session_of,
)
from eo_jax.experiment import make_experiment
from eo_jax.models.trunks.vit import SIZES
from eo_jax.sensors import ENMAP, Sensor

_BLOCKS = 1
_STEPS = 5  # of which the fastest counts


@dataclasses.dataclass(frozen=True)
class Case:
    """A step of MAE: one block of a ViT, and a decoder as wide, also with one.

    Attributes:
        bands: of a sensor whose bands are those of EnMAP, repeated if need be.
        side: of patch and view in pixels.
        patch: side of a token in pixels.
        stem: of the ViT.
        size: of the ViT.
        batch: samples per step.
    """

    bands: int = 12
    side: int = 64
    patch: int = 8
    stem: str = "patch_embed"
    size: str = "tiny"
    batch: int = 2


def sensor_of(bands: int) -> Sensor:
    """A sensor with so many of EnMAP's bands, spread evenly, or some of them twice."""
    known = len(ENMAP.bands)
    chosen = sorted((k * max(1, known // bands)) % known for k in range(bands))

    def pick(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values[k] for k in chosen)

    return dataclasses.replace(
        ENMAP,
        id=f"enmap_{bands}",
        bands=tuple(
            dataclasses.replace(ENMAP.bands[k], name=f"band {number}", number=number)
            for number, k in enumerate(chosen, start=1)
        ),
        mean=pick(ENMAP.mean),
        std=pick(ENMAP.std),
        true_colour=None,
        false_colour=None,
    )


def config_of(case: Case, folder: Path) -> Any:
    """The config of a case; its band table is written into the folder."""
    width, _, heads = SIZES[case.size]
    table = folder / f"{case.bands}.json"
    table.write_text(json.dumps(sensor_of(case.bands).row()))
    work = Workload(
        str(table),
        case.side,
        {"name": case.stem, "patch": case.patch},
        {"global": {"size": case.side, "gain": (0.9, 1.1)}},
        {"mask_ratio": 0.75, "decoder_depth": 1, "decoder_width": width, "decoder_heads": heads},
    )
    trunk = {"name": "vit", "size": case.size, "depth": _BLOCKS, "loop": "unrolled"}
    return complete_config("mae", work, trunk, case.batch)


def step_figures(settings: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Of a step: FLOP, bytes read and written and temporary memory by XLA's count, CPU time; and
    the counts of making its views alone.
    """
    experiment = make_experiment(config_of(Case(**settings), folder))
    recipe, batch = recipe_of(experiment), batch_of(experiment)
    session = session_of(experiment, recipe)
    compiled, _ = compile_step(session, batch)
    views = jax.jit(recipe.train).lower(batch, jax.random.key(0)).compile()
    return {
        **_counts(compiled),
        "cpu_s": _cpu_seconds(compiled, session.shapes, batch),
        **{f"views_{name}": count for name, count in _counts(views).items()},
    }


def _counts(compiled: Any) -> dict[str, float]:
    counts = compiled.cost_analysis()
    return {
        "flop": counts["flops"],
        "bytes": counts["bytes accessed"],
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def _cpu_seconds(compiled: Any, shapes: Any, batch: Any) -> float:
    """Of the fastest of a few steps, summed over threads, after one more. Weights are zero, which
    costs as much as any, and initialising them would compile for as long as the step.
    """
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    found = []
    for _ in range(_STEPS + 1):
        start = time.process_time()
        state, _ = jax.block_until_ready(compiled(state, batch))
        found.append(time.process_time() - start)
    return min(found[1:])
