"""Exports the encoder of a run to PyTorch.

    python -m eo_jax.export --workdir=runs/demo --output=runs/demo/encoder.safetensors

Load it as

    from safetensors.torch import load_file
    network.load_state_dict(load_file("encoder.safetensors"), strict=True)

The header says which network that is and which input it expects:
`safetensors.safe_open(path, "pt").metadata()["eo_jax"]`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from eo_jax import cli
from eo_jax.checkpoint import load
from eo_jax.data.store.files import write_atomically
from eo_jax.experiment import make_experiment
from eo_jax.export.contract import make_contract, to_header
from eo_jax.export.to_torch import to_torch


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.export",
        description="Writes the encoder of a run in the layout of a published PyTorch network, "
        "with the contract in the header.",
        epilog="example: python -m eo_jax.export --workdir=runs/demo --output=encoder.safetensors",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--encoder",
        help="name of the encoder, e.g. enmap or enmap.teacher (default: the objective's first)",
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "pth"),
        default="safetensors",
        help="file format; pth needs torch (pip install 'eo_jax[torch]') (default: safetensors)",
    )
    arguments = parser.parse_args()
    if arguments.format == "pth" and not _has_torch():
        print(
            "error: --format=pth needs torch: pip install 'eo_jax[torch]', or use "
            "--format=safetensors, which torch reads too",
            file=sys.stderr,
        )
        return 2
    tensors, contract = encoder_of(arguments.workdir, arguments.encoder)
    if not arguments.output.parent.is_dir():
        raise ValueError(
            f"--output: folder {arguments.output.parent} does not exist; create it first"
        )
    if arguments.format == "pth":
        _write_pth(arguments.output, tensors, contract)
    else:
        write_atomically(arguments.output, save(tensors, to_header(contract)))
    print(
        f"{arguments.output}: {len(tensors)} tensors, "
        f"{sum(tensor.size for tensor in tensors.values()):,} values; {contract['sensor']['title']}"
    )
    print(f"keys: {contract['layout']}")
    print(f"input: {contract['input']}; pooled feature: {contract['pooling']}")
    return 0


def encoder_of(workdir: Path, name: str | None) -> tuple[dict[str, np.ndarray], dict]:
    """(tensors in PyTorch layout, contract) of an encoder of a run, by default the first.

    Raises ValueError where the run has no such encoder.
    """
    config, step, params, carry = load(workdir)
    experiment = make_experiment(config)
    encoders = experiment.objective.encoders(params, carry)
    name = name or next(iter(encoders))
    if name not in encoders:
        raise ValueError(f"--encoder: {name!r}; this run has {', '.join(encoders)}")
    weights = encoders[name]
    encoder = experiment.encoders[weights["source"]]
    fingerprint = json.loads((workdir / "data.json").read_text())[weights["source"]]
    _, image_size = experiment.views[f"{weights['source']}/global"]
    tensors = to_torch(encoder, weights["params"], weights["statistics"], image_size)
    return tensors, make_contract(name, encoder, image_size, fingerprint, config, step)


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def _write_pth(path: Path, tensors: dict[str, np.ndarray], contract: dict) -> None:
    """Writes a plain state dict, like published weights, and the contract next to it."""
    import torch

    temporary = path.with_name(f".{path.name}.partial")
    try:
        torch.save(
            {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}, temporary
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    write_atomically(path.with_suffix(".json"), (json.dumps(contract, indent=1) + "\n").encode())


if __name__ == "__main__":
    cli.run(main)
