"""Makes a published PyTorch encoder the start of a run, which `train` continues.

    python -m eo_jax.import_torch --input=vits16.safetensors --layout=timm_vit \\
        --config=configs/supervised_eurosat.py --workdir=runs/eurosat \\
        --config.model.trunk.positions=learned --config.model.trunk.grid=14
    python -m eo_jax.train --config=... --workdir=runs/eurosat          # the same config

Every tensor of the encoder is accounted for: one that is missing, unknown or of another shape is an
error, and what is left out (heads, decoders, second encoders) is listed. `--with-head` takes the
objective's head, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from absl import flags

from eo_jax import cli, config_flags
from eo_jax.checkpoint import Checkpoints
from eo_jax.exchange.heads import HEADS
from eo_jax.exchange.importing import Source
from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.exchange.stems import RULES
from eo_jax.experiment import make_experiment, with_compute_dtype
from eo_jax.lock import locked
from eo_jax.run import data_fingerprints, write_provenance
from eo_jax.training_setup import make_setup
from eo_jax.warm_start import (
    imported_encoder,
    imported_with_head,
    leaves_of,
    with_encoder,
    with_heads,
)

_FLAGS = flags.FlagValues()
flags.DEFINE_string("config", None, config_flags.HELP, flag_values=_FLAGS)
flags.DEFINE_string("workdir", None, "folder of the run, which is new", flag_values=_FLAGS)
flags.DEFINE_string("input", None, "file: .safetensors, .npz or .pth", flag_values=_FLAGS)
flags.DEFINE_string(
    "layout", "", f"{', '.join(LAYOUTS)} (default: the first that fits)", flag_values=_FLAGS
)
flags.DEFINE_string(
    "encoder", "", "source whose encoder it is (default: the first)", flag_values=_FLAGS
)
flags.DEFINE_string("prefix", None, "of the keys (default: it is found)", flag_values=_FLAGS)
flags.DEFINE_enum(
    "stem", "", ["", *RULES], "rule for other bands than the file's", flag_values=_FLAGS
)
flags.DEFINE_list(
    "bands-nm", [], "wavelengths of the file's bands, for --stem=by-wavelength", flag_values=_FLAGS
)
flags.DEFINE_bool(
    "allow-pth",
    False,
    "read files of torch.save, by torch with weights_only=True",
    flag_values=_FLAGS,
)
flags.DEFINE_bool(
    "with-head",
    False,
    f"take the objective's head from the file, too; of {', '.join(HEADS)}",
    flag_values=_FLAGS,
)


def main() -> int:
    """The command."""
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, _FLAGS.get_help(include_special_flags=False), sep="\n")
        return 0
    others, overrides = config_flags.split_overrides(sys.argv)
    try:
        _FLAGS(others)
    except flags.Error as error:
        raise ValueError(
            f"{cli.first_cause(error)}; `python -m eo_jax.import_torch --help` lists the flags"
        ) from error
    missing = [name for name in ("config", "workdir", "input") if not _FLAGS[name].value]
    if missing:
        raise ValueError(
            f"--{missing[0]} must be given; `python -m eo_jax.import_torch --help` lists the flags"
        )
    config = config_flags.load(_FLAGS["config"].value, overrides).to_dict()
    source = Source(
        Path(_FLAGS["input"].value),
        _FLAGS["layout"].value,
        _FLAGS["prefix"].value,
        _FLAGS["stem"].value,
        _wavelengths(_FLAGS["bands-nm"].value),
        _FLAGS["allow-pth"].value,
        _FLAGS["with-head"].value,
    )
    for line in import_run(source, config, Path(_FLAGS["workdir"].value), _FLAGS["encoder"].value):
        print(line, flush=True)
    return 0


def import_run(source: Source, config: dict, workdir: Path, encoder: str = "") -> list[str]:
    """Writes step 0 of a run whose encoder has the weights of a file; returns remarks.

    Raises ValueError where the file does not hold that encoder, or the workdir holds a run.
    """
    if Checkpoints(workdir).latest() is not None:
        raise ValueError(f"{workdir}: holds a run already; give a new --workdir")
    config = with_compute_dtype(config)
    experiment = make_experiment(config)
    imported = imported_encoder(source, experiment, encoder)
    if source.with_head:
        imported = imported_with_head(imported, config["objective"], experiment, encoder)
    setup = make_setup(experiment, experiment.sharding, lambda value: [value])
    leaves = leaves_of(imported.params, imported.statistics)
    state = with_encoder(setup.session.init(), leaves, experiment.run.init_rules, source.path)
    if source.with_head:
        state = with_heads(state, imported.heads, source.path)
    with locked(workdir), Checkpoints(workdir) as checkpoints:
        fingerprint = data_fingerprints(setup.pipeline, setup.normalisation)
        write_provenance(workdir, config, fingerprint)
        checkpoints.save(0, jax.device_put(state, setup.session.placement), config)
    return [
        *imported.remarks,
        f"{workdir}: step 0 saved; next: python -m eo_jax.train --config=... --workdir={workdir}",
    ]


def _wavelengths(values: list[str]) -> tuple[float, ...]:
    try:
        return tuple(map(float, values))
    except ValueError as error:
        raise ValueError(f"--bands-nm: {','.join(values)}; expected numbers in nm") from error


if __name__ == "__main__":
    cli.run(main)
