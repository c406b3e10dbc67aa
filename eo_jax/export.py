"""Exports the encoder of a run to PyTorch.

    python -m eo_jax.export --workdir=runs/demo --output=runs/demo/encoder.safetensors
    python -m eo_jax.export --workdir=runs/demo --publish=upload   # with model card and metadata

The header says which network that is and which input it expects. `eo_jax_torch.py` loads the file
into the network, and `eo_jax.load` reads it without PyTorch; both refuse what does not fit
(docs/weights.md).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eo_jax import cli
from eo_jax.data.store.files import write_atomically
from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.heads import HEADS, head_of
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.exchange.outputs import ENDINGS, check_free, format_of
from eo_jax.exchange.positions import check_image_size, resized
from eo_jax.exchange.publishing import publish
from eo_jax.exchange.sealing import leaves, sealed
from eo_jax.exchange.tensor import Tensor
from eo_jax.exchange.torch_file import has_torch, write_pth
from eo_jax.exchange.torchgeo_entry import torchgeo_model
from eo_jax.exchange.translation import tensors_by, tensors_of
from eo_jax.exchange.wrappers import WRAPPERS, Wrapper, nested
from eo_jax.exchange.writing import write_model
from eo_jax.models.encoder import Encoder
from eo_jax.monitor.writers import read_metrics
from eo_jax.run_encoder import RunEncoder, encoder_of_run


class Exported(NamedTuple):
    """An encoder, its weights in a PyTorch layout, and its contract."""

    encoder: Encoder
    tensors: dict[str, Tensor]
    contract: dict


def main() -> int:
    """The command."""
    arguments = _parser().parse_args()
    if arguments.publish:
        return _publish(arguments)
    wrapper = WRAPPERS[arguments.wrapper]
    kind = format_of(arguments.output, arguments.format)
    if kind == "pth" and not has_torch():
        raise ValueError(
            f"--output: {arguments.output}: needs torch: pip install 'eo_jax[torch]'; or write "
            ".safetensors, which torch reads too"
        )
    if kind != "pth" and arguments.wrapper != "none" and (wrapper.named or not wrapper.prefix):
        raise ValueError(
            f"--wrapper={arguments.wrapper}: is of .pth files; give an --output with that ending"
        )
    if not arguments.output.parent.is_dir():
        raise ValueError(
            f"--output: folder {arguments.output.parent} does not exist; create it first"
        )
    exported = _exported(arguments)
    head = exported.contract.get("head", {"name": "", "encoder_prefix": ""})
    if head["name"] and arguments.wrapper not in ("none", head["name"]):
        raise ValueError(
            f"--wrapper={arguments.wrapper}: is not that of {head['network']}; with --with-head "
            f"give --wrapper={head['name']}, or none"
        )
    prefix = wrapper.prefix.removesuffix(head["encoder_prefix"])  # which its keys have already
    tensors = {f"{prefix}{key}": tensor for key, tensor in exported.tensors.items()}
    if kind == "pth":
        _write_pth(arguments.output, tensors, wrapper, exported.contract)
    else:
        write_model(arguments.output, tensors, to_header(sealed(exported.contract, tensors)))
    _say(arguments.output, exported)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.export",
        description="Writes the encoder of a run in the layout of a published PyTorch network, "
        "with the contract in the header.",
        epilog="example: python -m eo_jax.export --workdir=runs/demo --output=encoder.safetensors",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("--output", type=Path, help="file to write")
    output.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help="new folder for the Hugging Face Hub: model.safetensors, config.json, model card, "
        "STAC item, and an entry for torchgeo where it has the network",
    )
    parser.add_argument(
        "--encoder",
        default="",
        help="name of the encoder, e.g. enmap or enmap.teacher (default: the objective's first)",
    )
    parser.add_argument(
        "--layout", default="", help=f"{', '.join(LAYOUTS)} (default: the first that fits)"
    )
    parser.add_argument(
        "--wrapper",
        choices=tuple(WRAPPERS),
        default="none",
        help="prefix of the keys, and nesting of a .pth file, that a project's scripts look for",
    )
    parser.add_argument(
        "--with-head",
        action="store_true",
        help="also the head of the objective on that encoder, for the published class that has "
        f"both: {', '.join(head.network for head in HEADS.values())}",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        help="side in pixels of the images that positions are for; learned ones are resampled "
        "(default: that of training)",
    )
    parser.add_argument(
        "--format",
        choices=tuple(ENDINGS),
        help="file format, which is that of the ending of --output; pth needs torch (pip install "
        "'eo_jax[torch]')",
    )
    return parser


def _publish(arguments: argparse.Namespace) -> int:
    if arguments.wrapper != "none" or arguments.format or arguments.with_head:
        raise ValueError(
            "--publish: writes plain safetensors of the encoder; leave out --wrapper, --format and "
            "--with-head"
        )
    exported = _exported(arguments)
    for file in publish(arguments.publish, *exported, read_metrics(arguments.workdir)):
        print(file)
    _say(arguments.publish, exported)
    return 0


def _exported(arguments: argparse.Namespace) -> Exported:
    run = encoder_of_run(arguments.workdir, arguments.encoder)
    exported = exported_encoder(run, arguments.layout, arguments.image_size)
    return with_head(exported, run) if arguments.with_head else exported


def _say(output: Path, exported: Exported) -> None:
    _, tensors, contract = exported
    values = sum(math.prod(tensor.shape) for tensor in tensors.values())
    print(f"{output}: {len(tensors)} tensors, {values:,} values; {contract['sensor']['title']}")
    print(f"keys: {contract['network']}")
    print(f"network: {contract['constructor']}")
    if "head" in contract:
        print(f"with its head: {contract['head']['constructor']}")
    print(f"input: {contract['input']}; pooled feature: {contract['pooling']}")


def encoder_of(
    workdir: Path, name: str = "", layout: str = "", image_size: int | None = None
) -> Exported:
    """An encoder of a run, by default the first, in a layout, by default the first that fits.

    Raises ValueError where the run has no such encoder, or the encoder no such layout or size.
    """
    return exported_encoder(encoder_of_run(workdir, name), layout, image_size)


def exported_encoder(run: RunEncoder, layout: str = "", image_size: int | None = None) -> Exported:
    """The same of an encoder that was read from a run."""
    size = run.image_size if image_size is None else image_size
    if image_size is not None:
        check_image_size(run.encoder, size, "--image-size")
    encoder, params = resized(run.encoder, run.params, size, "--image-size")
    layout = layout_name(encoder, layout)
    tensors = tensors_of(LAYOUTS[layout], encoder, params, run.statistics, size)
    contract = make_contract(run.name, encoder, layout, size, run.fingerprint, run.config, run.step)
    return Exported(encoder, tensors, contract)


def with_head(exported: Exported, run: RunEncoder) -> Exported:
    """An exported encoder of a run with the heads on it that a published class has.

    Raises ValueError where no published class has them.
    """
    encoder, tensors, contract = exported
    name = contract["objective"]["name"]
    head = head_of(name, contract["layout"], encoder)
    heads = head.taken(run.heads)
    table = head.table(heads, contract["image_size"] // encoder.patch)
    own = tensors_by(table, heads["params"], heads["statistics"])
    both = {f"{head.prefix}{key}": tensor for key, tensor in tensors.items()} | own
    return Exported(encoder, both, contract | {"head": head.section(name, contract, heads)})


def _write_pth(path: Path, tensors: Mapping[str, Tensor], wrapper: Wrapper, contract: dict) -> None:
    """Writes a plain state dict, like published weights, and the contract next to it.

    Raises ValueError where one of the two is there already, and is not of an earlier export.
    """
    beside = path.with_suffix(".json")
    check_free([path, beside])
    _, network = torchgeo_model(contract) or ("", contract["trunk"]["name"])
    content = nested(tensors, wrapper, network)
    inside = {key: x for key, x in leaves(content) if isinstance(x, Tensor)}
    text = json.dumps(sealed(contract, inside), indent=1) + "\n"
    write_atomically(beside, text.encode())  # first, so that the weights are never without it
    write_pth(path, content)


if __name__ == "__main__":
    cli.run(main)
