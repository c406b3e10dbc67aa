"""The config of a command line: a file, which evaluators run, and overrides of its values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from eo_jax import cli
from eo_jax.config import complete_evaluator, unknown_key

HELP = "configs/FILE.py[:variant]; any value is overridden as --config.section.key=value"
EVALS_HELP = (
    "evaluators that run, as in knn,reconstruction (default: the config's). Those of the config "
    "keep their settings, others have defaults, and --config.evals.NAME.key=value overrides both"
)
_OVERRIDE = re.compile(r"--?(no)?config[.\[]")
_KEY = re.compile(r"""\.?([^.\[\]=]+)|\[["']?([^\]"']+)["']?\]""")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(other arguments, overrides): those that begin with `--config.`, and values that follow."""
    others, overrides, value_follows = [], [], False
    for argument in arguments:
        is_override = bool(_OVERRIDE.match(argument))
        belongs = is_override or (value_follows and not argument.startswith("-"))
        (overrides if belongs else others).append(argument)
        value_follows = is_override and "=" not in argument
    return others, overrides


def load(
    path: str, overrides: Sequence[str], evals: Iterable[str] | None = None
) -> ml_collections.ConfigDict:
    """The config of a file, with `evals` in place of its evaluators if given, and overrides.

    An override of an evaluator that the config lacks adds it. Raises ValueError that names the file
    where it cannot be loaded, or the key that does not exist.
    """
    config = _from_file(path)
    paths = [_keys(override) for override in overrides if _OVERRIDE.match(override)]
    named = dict.fromkeys(keys[1] for keys in paths if keys[0] == "evals" and keys[1:])
    chosen = config.evals if evals is None else evals
    _set_evaluators(config, dict.fromkeys([*chosen, *named]))
    for keys in paths:
        _check_keys(config, keys)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict(
        "config", config, flag_values=values, sys_argv=["", *overrides]
    )
    try:
        values(["", *overrides])
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(cli.first_cause(error)) from error
    return holder.value


def _from_file(path: str) -> ml_collections.ConfigDict:
    file = path.partition(":")[0]
    if not Path(file).is_file():
        raise ValueError(f"--config={path}: there is no file {file}")
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=[""])
    try:
        values(["", f"--config={path}"])
        holder.value.lock()  # of a file with an error, this raises it
        return holder.value
    except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"--config={path}: {cli.first_cause(error)}") from error


def _set_evaluators(config: ml_collections.ConfigDict, names: Iterable[str]) -> None:
    """Keeps the evaluators of these names, and adds those that are not there."""
    before = config.evals
    with config.unlocked():
        config.evals = {
            name: before[name] if name in before else complete_evaluator(config, name, {})
            for name in names
        }


def _keys(override: str) -> list[str]:
    """["optim", "lr"] of --config.optim.lr=1e-3."""
    path = override.partition("=")[0]
    path = path[path.index("config") + len("config") :]
    return [plain or bracketed for plain, bracketed in _KEY.findall(path)]


def _check_keys(config: Any, keys: Sequence[str]) -> None:
    """Raises ValueError, with the keys that there are, for a path to another one."""
    where: list[str] = []
    for key in keys:
        if not isinstance(config, ml_collections.ConfigDict):
            return  # a place in a tuple: ml_collections knows
        if key not in config:
            raise ValueError(unknown_key(".".join(where), key, list(config)))
        config = config[key]
        where.append(key)
