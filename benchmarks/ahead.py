"""Counts the whole train step compiled for a TPU that is not here, before and after each choice.

    pip install --target /tmp/libtpu --no-deps "libtpu==0.0.42.*"   # what jax[tpu] asks for
    TPU_LIBRARY_PATH=/tmp/libtpu/libtpu/libtpu.so \\
        python -m benchmarks.ahead --json benchmarks/results/cpu/ahead.json

The step of MAE on EnMAP (see `benchmarks.accelerator.cases`) is compiled for one chip, with a batch
that may exceed its memory: counts are XLA's, of FLOP and of bytes that the program reads and
writes, and temporaries of the chip. Augmentation is compiled alone, too; its share is what it takes
of the step with the same choices. Nothing runs. "bytes" counts each operand of each fusion once, so
it is an upper limit of what passes through the memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks.accelerator.cases import config_of
from benchmarks.accelerator.scale import SCALES
from benchmarks.step import environment
from benchmarks.step_workloads import batch_of, recipe_of
from eo_jax.data.store.files import write_atomically
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.schema import Batch
from eo_jax.step import TrainSession

# {choice: {field of the config: value}}, each compared with the first.
CHOICES: dict[str, dict[str, Any]] = {
    "as on TPUs": {},
    "crops gathered": {"augment.sampling": "gather"},
    "bfloat16 residual stream": {
        "model.trunk.residual": "compute",
        "objective.decoder_residual": "compute",
    },
    "remat none": {"model.trunk.remat": "none", "objective.decoder_remat": "none"},
    "unrolled": {"model.trunk.loop": "unrolled"},
    "all in float32": {"model.dtype": "float32"},
}
_COLUMNS = ("flop", "bytes", "temporaries", "augmentation_flop", "augmentation_bytes", "compile_s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts every choice; results are written after each."""
    args = _parser().parse_args(arguments)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no server of Google Cloud
    topology = topologies.get_topology_desc(args.topology, platform="tpu")
    mesh = Mesh(np.array(topology.devices[:1]).reshape(1, 1), ("data", "fsdp"))
    found: dict[str, Any] = {}
    for name in args.only or CHOICES:
        found[name] = counts(args.case, args.batch, CHOICES[name], mesh)
        if args.json:
            about = {"topology": args.topology, "case": args.case, "batch": args.batch}
            result = {**environment(), **about, "per_sample": found}
            write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
        Console(width=140).print(_table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ahead", description=__doc__, formatter_class=raw
    )
    add = parser.add_argument
    add("--topology", default="v5e:2x2", help="one chip of this is used (default: v5e:2x2)")
    add("--case", default="mae_enmap_vit_s4", help="of benchmarks.accelerator.cases")
    add("--batch", type=int, default=16, metavar="N", help="samples per step (default: 16)")
    add("--only", nargs="+", choices=list(CHOICES), metavar="CHOICE", help="these choices")
    add("--json", type=Path, metavar="F", help="file of the results")
    return parser


def counts(case: str, batch_size: int, fields: Mapping[str, Any], mesh: Mesh) -> dict[str, float]:
    """The figures of `_COLUMNS`, per sample but for the last."""
    config = config_of(case, SCALES["full"], {}, {})
    config.data.batch_size = batch_size
    config.model.dtype, config.augment.sampling = "bfloat16", "products"
    config.update_from_flattened_dict(dict(fields))
    experiment = make_experiment(config)
    recipe, batch = recipe_of(experiment), _shapes(experiment)
    session = TrainSession(experiment, recipe, mesh)
    step, seconds = _compiled(session.step, session.shapes, batch)
    placement = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    augment = jax.jit(recipe.train, in_shardings=placement, out_shardings=placement)
    views, _ = _compiled(augment, batch, key)
    return {
        "flop": step.cost_analysis()["flops"] / batch_size,
        "bytes": step.cost_analysis()["bytes accessed"] / batch_size,
        "temporaries": step.memory_analysis().temp_size_in_bytes / batch_size,
        "augmentation_flop": views.cost_analysis()["flops"] / batch_size,
        "augmentation_bytes": views.cost_analysis()["bytes accessed"] / batch_size,
        "compile_s": seconds,
    }


def _shapes(experiment: Experiment) -> Batch:
    one = dataclasses.replace(experiment.data, batch_size=1)
    drawn = batch_of(dataclasses.replace(experiment, data=one))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((experiment.data.batch_size, *x.shape[1:]), x.dtype), drawn
    )


def _compiled(function: Callable[..., Any], *shapes: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return function.lower(*shapes).compile(), time.perf_counter() - start


def _table(found: Mapping[str, Mapping[str, float]]) -> Table:
    titles = ("GFLOP", "MB", "temporaries, MB", "GFLOP augmenting", "MB augmenting", "compiled, s")
    scales = (1e9, 1e6, 1e6, 1e9, 1e6, 1)
    table = Table("", *titles, title="per sample")
    for name, figures in found.items():
        cells = [f"{figures[key] / scale:.2f}" for key, scale in zip(_COLUMNS, scales, strict=True)]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
