"""Finds out whether training waits for data or for compute: measures the loader, the step, and both
together, and names the setting to change.

    python -m eo_jax.doctor stores/demo --config=configs/mae_demo.py
    python -m eo_jax.doctor stores/demo --config=configs/mae_demo.py --config.data.threads=4 \\
        --seconds=10
    python -m eo_jax.doctor --store=enmap=stores/se --config=configs/mae_spectral_earth.py:vit_s

STORE replaces the store of every source, --store=SOURCE=PATH that of one source. Nothing is
written but what --json=FILE asks for, which `python -m eo_jax.plan --doctor=FILE` compares with
what a pod needs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from eo_jax import cli, compile_cache, config_flags, sharding
from eo_jax.data.pipeline import Config, Pipeline
from eo_jax.data.store.files import write_atomically
from eo_jax.experiment import (
    Experiment,
    compute_dtype,
    make_experiment,
    make_normalisation,
    make_recipe,
    mean_sample_flops,
)
from eo_jax.monitor.throughput import Throughput
from eo_jax.schema import Batch
from eo_jax.step import TrainSession

_SEE_HELP = "`python -m eo_jax.doctor --help` shows examples"
_WARM_UP, _LEAST = 3, 4  # untimed batches; timed batches at least, however long they take
_EQUAL = 1.25  # loader and step within this factor are balanced: measurements scatter by less
_OVERLAP = 0.75  # of the slower one's rate: below it, loader and step slow each other down
_PAYS = 1.15  # a gain worth changing a setting for
_LOW_MFU = 0.3  # others reach 0.2 to 0.3 with vision transformers


# ------------------------------------------------------------------------------ what the rates mean


@dataclasses.dataclass(frozen=True)
class Rates:
    """Batches per second.

    Attributes:
        loader: of drawing batches and placing them on the device, without a step.
        step: of the train step on the same batch of each component.
        together: of both, as in training.
        more_threads: of the loader with twice the threads; only where the loader is slower than the
            step.
    """

    loader: float
    step: float
    together: float
    more_threads: float | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """The settings that advice depends on besides the rates.

    Attributes:
        on_cpu: whether steps run on the cores that the loader uses.
        threads, crop: of config.data.
        size: side of the largest view in pixels.
        stores: {source: (format, smallest side of a patch)}.
        dtype: compute type of the model.
        mfu: of the step alone; None where the peak of the device is unknown.
    """

    on_cpu: bool
    threads: int
    crop: int
    size: int
    stores: Mapping[str, tuple[str, int]]
    dtype: str
    mfu: float | None


def bound_by(rates: Rates) -> str:
    """ "contention", "data", "compute" or "balanced"."""
    if rates.together < _OVERLAP * min(rates.loader, rates.step):
        return "contention"
    if rates.step > _EQUAL * rates.loader:
        return "data"
    return "compute" if rates.loader > _EQUAL * rates.step else "balanced"


def verdict(rates: Rates) -> str:
    """The diagnosis in one line."""
    return _VERDICTS[bound_by(rates)](rates)


def advice(rates: Rates, setup: Setup) -> list[str]:
    """Changes to make, one per line, the surest first."""
    return _ADVICE[bound_by(rates)](rates, setup)


def _data_verdict(rates: Rates) -> str:
    waits = 1 - rates.together / rates.step
    return (
        f"data-bound: the step could take {rates.step:.3g} batches/s, the loader gives "
        f"{rates.loader:.3g}; the device waits {waits:.0%} of the time"
    )


def _compute_verdict(rates: Rates) -> str:
    spare = rates.loader / rates.step
    return (
        f"compute-bound: the loader gives {spare:.1f} times what the step takes; it could be "
        f"{1 - 1 / spare:.0%} slower before that mattered"
    )


def _balanced_verdict(rates: Rates) -> str:
    return (
        f"balanced: the loader gives {rates.loader / rates.step:.2f} times what the step takes; to "
        "train faster, both have to be faster"
    )


def _contention_verdict(rates: Rates) -> str:
    alone = min(rates.loader, rates.step)
    in_turns = 1 / (1 / rates.loader + 1 / rates.step)
    how = (
        "as if they took turns"
        if rates.together > 0.9 * in_turns
        else "slower than if they took turns"
    )
    return (
        f"contention: {rates.together:.3g} batches/s together, the slower of the two alone "
        f"{alone:.3g}; loader and step slow each other down, {how}"
    )


def _data_advice(rates: Rates, setup: Setup) -> list[str]:
    return [_threads(rates, setup), *_less_to_read(setup)]


def _threads(rates: Rates, setup: Setup) -> str:
    gain, more = rates.more_threads / rates.loader, f"config.data.threads={2 * setup.threads}"
    if gain < _PAYS:
        return (
            f"more threads do not help: with {more} the loader ran at {gain:.2f} times the rate; "
            "cores, memory or disk are used up"
        )
    reach = (
        "enough for the step"
        if rates.more_threads >= rates.step
        else f"{rates.more_threads / rates.step:.0%} of what the step takes"
    )
    return f"{more}: the loader ran at {gain:.2f} times the rate, {reach}"


def _less_to_read(setup: Setup) -> list[str]:
    """Ways to make a batch cheaper for the host."""
    lines = []
    for name, (kind, side) in setup.stores.items():
        if kind != "zarr-raw":
            part = (
                f", of which a crop of {setup.crop} px keeps {(setup.crop / side) ** 2:.1%}"
                if setup.crop < side
                else ""
            )
            lines.append(
                f"source {name!r} is stored as {kind}: whole patches are decoded{part}. Convert it "
                "with --format zarr-raw: nothing to decode"
            )
    if setup.crop > setup.size:
        times = (setup.crop / setup.size) ** 2
        lines.append(
            f"config.data.crop={setup.size}: the views are {setup.size} px, a crop of {setup.crop} "
            f"px transfers {times:.1f} times their pixels"
        )
    return lines or ["stores and crop cannot get cheaper; use a faster disk or more cores"]


def _compute_advice(rates: Rates, setup: Setup) -> list[str]:
    if setup.on_cpu:
        return [
            "use an accelerator, or a smaller model (config.model.trunk); on a CPU float32 is the "
            "fastest model.dtype"
        ]
    lines = [] if setup.mfu is None else [f"MFU of the step alone is {setup.mfu:.1%}"]
    if setup.dtype == "float32":
        lines.append(
            "config.model.dtype=bfloat16: float32 leaves most of the device's matrix units idle"
        )
    if setup.mfu is None or setup.mfu < _LOW_MFU:
        lines.append(
            "a larger config.data.batch_size, if memory allows: small batches do not fill the "
            "device"
        )
    return lines or ["the device is well used; use more devices"]


def _balanced_advice(rates: Rates, setup: Setup) -> list[str]:
    return ["nothing; a faster step or more devices would make it data-bound"]


def _contention_advice(rates: Rates, setup: Setup) -> list[str]:
    if not setup.on_cpu:
        return [
            "config.sharding.prefetch=2 or more: the next batch has to be on its way while a step "
            "runs",
            *_less_to_read(setup),
        ]
    fewer = (
        [
            f"config.data.threads={setup.threads // 2}: fewer decoding threads leave more of the "
            "cores to XLA"
        ]
        if setup.threads > 1
        else []
    )
    return [
        "the loader's threads and XLA share the cores of this machine; with an accelerator, "
        "measure again there",
        *fewer,
        *_less_to_read(setup),
    ]


_VERDICTS = {
    "data": _data_verdict,
    "compute": _compute_verdict,
    "balanced": _balanced_verdict,
    "contention": _contention_verdict,
}
_ADVICE = {
    "data": _data_advice,
    "compute": _compute_advice,
    "balanced": _balanced_advice,
    "contention": _contention_advice,
}


# ---------------------------------------------------------------------------------------- measuring


class _Step:
    """A train session with its state: each call trains on a batch and gives its metrics, perhaps
    not computed yet.
    """

    def __init__(self, session: TrainSession):
        self._session, self._state = session, session.init()

    def __call__(self, batch: Batch) -> Any:
        self._state, values = self._session.step(self._state, batch)
        return values


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Measurements of an experiment on a mesh, each for `seconds`."""

    experiment: Experiment
    mesh: Mesh
    seconds: float
    sample_flops: float

    def measure(
        self, batches: Iterator[Batch], consume: Callable[[Batch], Any]
    ) -> dict[str, float]:
        """{"samples_per_s", "flops_per_s", "mfu"?}. As in training, the result of a batch is
        awaited while the next one is on its way.
        """
        for batch in itertools.islice(batches, _WARM_UP):
            jax.block_until_ready(consume(batch))
        throughput = Throughput(self.experiment.data.batch_size, self.sample_flops)
        end, running = time.perf_counter() + self.seconds, consume(next(batches))
        for count in itertools.count():
            if count > _LEAST and time.perf_counter() > end:
                break
            following = consume(next(batches))
            jax.block_until_ready(running)
            throughput.arrived()
            running = following
        jax.block_until_ready(running)
        return throughput.take()

    def load(self, data: Config, consume: Callable[[Batch], Any]) -> float:
        """Batches per second from the loader."""
        endless = 2**31
        batches = Pipeline(data, self.experiment.run.seed).batches(0, endless)
        placed = sharding.prefetch(batches, self.mesh, self.experiment.sharding.prefetch)
        rate = self.measure(placed, consume)["samples_per_s"] / data.batch_size
        placed.close()
        return rate


def examine(config: dict, seconds: float, say: Callable[[str], None]) -> tuple[Rates, Setup, int]:
    """(rates, setup, mean bytes of a batch) of a completed config. Takes about three times
    `seconds`, plus compilation.
    """
    experiment = make_experiment(config)
    data, mesh = experiment.data, sharding.make_mesh(experiment.sharding)
    sharding.check_batch(data.batch_size, experiment.optim.accum, mesh)
    pipeline = Pipeline(data, experiment.run.seed)
    recipe = make_recipe(experiment, make_normalisation(experiment, pipeline))
    bench = _Bench(experiment, mesh, seconds, mean_sample_flops(experiment, recipe.train, pipeline))
    say(
        f"{experiment.objective_name} on {mesh.size} x {jax.devices()[0].device_kind}: compiling, "
        f"then {seconds:g} s each of step, loader, both"
    )
    step = _Step(TrainSession(experiment, recipe, mesh))
    batches = {
        component: sharding.to_global(batch, mesh)
        for component, batch in _first_batches(pipeline).items()
    }
    for batch in batches.values():
        jax.block_until_ready(step(batch))  # compiled before anything is timed
    alone = bench.measure((batches[pipeline.mixture.component(n)] for n in itertools.count()), step)
    rates = Rates(
        bench.load(data, lambda batch: batch),
        alone["samples_per_s"] / data.batch_size,
        bench.load(data, step),
    )
    if bound_by(rates) == "data":
        more = dataclasses.replace(data, threads=2 * data.threads)
        rates = dataclasses.replace(rates, more_threads=bench.load(more, lambda batch: batch))
    setup = Setup(
        on_cpu=jax.default_backend() == "cpu",
        threads=data.threads,
        crop=data.crop,
        size=max(size for _, size in experiment.views.values()),
        stores={
            name: (source.store.format, _smallest_side(source))
            for name, source in pipeline.sources.items()
        },
        dtype=compute_dtype(config["model"]["dtype"]).name,
        mfu=alone.get("mfu"),
    )
    batch_bytes = sum(
        fraction * _bytes(batches[component])
        for component, fraction in pipeline.mixture.fractions.items()
    )
    return rates, setup, round(batch_bytes)


def _first_batches(pipeline: Pipeline) -> dict[str, Batch]:
    """{component: its first batch}."""
    found: dict[str, Batch] = {}
    for n in itertools.count():
        component = pipeline.mixture.component(n)
        if component not in found:
            found[component] = pipeline.batch(n)
        if len(found) == len(pipeline.mixture.components):
            return found


def _bytes(batch: Batch) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(batch))


def _smallest_side(source: Any) -> int:
    return int(source.store.index["shape"][source.groups.members, 1:].min())


# -------------------------------------------------------------------------------------- the command


def main() -> int:
    """The command."""
    values = _flags()
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, values.get_help(include_special_flags=False), sep="\n")
        return 0
    config, seconds = _parse(values)
    batch_size = config.data.batch_size
    compile_cache.enable()
    rates, setup, batch_bytes = examine(
        config.to_dict(), seconds, lambda text: print(text, flush=True)
    )
    Console(file=sys.stdout).print(_table(rates, setup, batch_size, batch_bytes))
    print(verdict(rates))
    for line in advice(rates, setup):
        print(f"  - {line}")
    if values.json:
        found = _as_json(rates, setup, batch_size, batch_bytes)
        write_atomically(Path(values.json), (json.dumps(found, indent=1) + "\n").encode())
    return 0


def _flags() -> flags.FlagValues:
    """The flags of this command, separate from those of other commands in the process."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, config_flags.HELP, flag_values=values)
    flags.DEFINE_multi_string(
        "store",
        [],
        "SOURCE=PATH: the store of one source, in place of the config's",
        flag_values=values,
    )
    flags.DEFINE_float(
        "seconds", 5.0, "how long each measurement takes", lower_bound=0.1, flag_values=values
    )
    flags.DEFINE_string(
        "json", None, "also write what was measured to this file", flag_values=values
    )
    return values


def _parse(values: flags.FlagValues) -> tuple[ml_collections.ConfigDict, float]:
    """(the config with the given stores, seconds)."""
    others, overrides = config_flags.split_overrides(sys.argv)
    try:
        stores = values(others)[1:]
    except flags.Error as error:
        raise ValueError(f"{cli.first_cause(error)}; {_SEE_HELP}") from error
    if values.config is None:
        raise ValueError(f"--config=configs/FILE.py[:variant] must be given; {_SEE_HELP}")
    config = config_flags.load(values.config, overrides)
    if len(stores) > 1:
        raise ValueError(
            f"{len(stores)} stores ({', '.join(stores)}), expected one for all sources; give "
            "others as --store=SOURCE=PATH"
        )
    override_stores(config.data.sources, stores, values.store)
    return config, values.seconds


def override_stores(
    sources: ml_collections.ConfigDict, everywhere: list[str], named: list[str]
) -> None:
    """Sets the stores of config.data.sources in place: that of `everywhere` for all, then each
    "SOURCE=PATH" of `named`. Raises ValueError.
    """
    for store, source in itertools.product(everywhere, sources.values()):
        source.store = store
    for item in named:
        name, _, path = item.partition("=")
        if name not in sources or not path:
            raise ValueError(
                f"--store={item}: expected SOURCE=PATH with SOURCE one of {', '.join(sources)}"
            )
        sources[name].store = path


def _as_json(rates: Rates, setup: Setup, batch_size: int, batch_bytes: int) -> dict[str, Any]:
    measured = {name: rate for name, rate in dataclasses.asdict(rates).items() if rate is not None}
    per_s = {f"{name}_samples_per_s": rate * batch_size for name, rate in measured.items()}
    about = {"threads": setup.threads, "batch_size": batch_size, "batch_bytes": batch_bytes}
    return {**per_s, **about, "bound_by": bound_by(rates)}


def _table(rates: Rates, setup: Setup, batch_size: int, batch_bytes: int) -> Table:
    table = Table("", "batches/s", "samples/s", "MB/s")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {
        f"loader alone, threads={setup.threads}": (rates.loader, batch_bytes),
        f"loader alone, threads={2 * setup.threads}": (rates.more_threads, batch_bytes),
        "step alone": (rates.step, None),
        "both, as in training": (rates.together, None),
    }
    for title, (rate, size) in rows.items():
        if rate is not None:
            table.add_row(
                title,
                f"{rate:.2f}",
                f"{rate * batch_size:.1f}",
                f"{rate * size / 1e6:.0f}" if size else "",
            )
    return table


if __name__ == "__main__":
    cli.run(main)
