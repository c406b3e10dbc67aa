"""Collects the contents of the report page: metrics, pictures of the newest weights, configuration
and data of a run.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from eo_jax import sharding
from eo_jax.checkpoint import load
from eo_jax.config import modules
from eo_jax.data import open_store
from eo_jax.data.pipeline import Pipeline
from eo_jax.evaluators.base import Context, Weights
from eo_jax.experiment import make_context, make_experiment, make_normalisation
from eo_jax.monitor import goodput, writers
from eo_jax.monitor.metric import Card, Metric
from eo_jax.monitor.metrics import step_metrics
from eo_jax.report.page import Lines, Report
from eo_jax.report.patches import Bands, PatchView
from eo_jax.report.predicted import predict

_PATCHES = 4


def collect(workdir: Path, split: str) -> Report:
    """The contents of the page of a run; restores its newest checkpoint.

    Args:
        split: of the samples that are drawn; "" for "val", or "train" where no sample is in "val".
    """
    config, step, params, carry = load(workdir)
    experiment = make_experiment(config)
    numbers = make_normalisation(experiment, Pipeline(experiment.data, experiment.run.seed))
    context = make_context(experiment, numbers, sharding.make_mesh(sharding.Config()))
    sensor, lines = context.sensor, writers.read_metrics(workdir)
    bands = Bands(sensor, context.std > 0)
    tested = config["evals"].get("supervised", {}).get("test_split", "")
    return Report(
        title=f"{experiment.objective_name} on {sensor.title}, step {step}",
        cards=[*headline(lines), *time_spent(lines)],
        lines=lines,
        metrics=step_metrics(experiment.objective.metrics),
        scores=_described_scores(),
        patches=_patches(context, (params, carry), split),
        bands=bands,
        predictions=predict(context, (params, carry), split or tested, bands),
        config=config,
        versions=json.loads((workdir / "versions.json").read_text()),
        fingerprint=_short(json.loads((workdir / "data.json").read_text())),
        links={file.name: file.name for file in sorted(workdir.glob("*.safetensors"))},
    )


def _described_scores() -> dict[str, Metric]:
    """{"<evaluator>/<score>": description} of all evaluators."""
    return {
        f"{name}/{score}": metric
        for name, module in modules("evaluators").items()
        for score, metric in module.METRICS.items()
    }


def headline(lines: Lines) -> list[Card]:
    """Loss, collapse, and the cards of every evaluator with its last scores."""
    return [*_loss(lines), *_collapsed(lines), *_scores(lines)]


def _loss(lines: Lines) -> list[Card]:
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    if not losses:
        return []
    value = f"{losses[0]:.4f} to {losses[-1]:.4f}"
    return [Card("Loss", value, "first and last logged step")]


def _collapsed(lines: Lines) -> list[Card]:
    collapsed = [line for line in lines if "collapsed" in line]
    if not collapsed:
        return []
    names = sorted({name for line in collapsed for name in line["collapsed"].split(", ")})
    value = f"step {collapsed[0]['step']} to {collapsed[-1]['step']}"
    note = f"logged steps where nearly all samples had the same vector ({', '.join(names)})"
    meaning = "worse than an encoder that tells samples apart: training has collapsed there"
    return [Card("Collapsed", value, note, "worse", meaning)]


def _scores(lines: Lines) -> list[Card]:
    evaluators = modules("evaluators")
    return [
        dataclasses.replace(card, label=f"{card.label} of {source}") if source else card
        for evaluator, by_source in _last_scores(lines).items()
        if evaluator in evaluators  # it may have been removed since the run
        for source, scores in sorted(by_source.items())
        for card in evaluators[evaluator].cards(scores)
    ]


def _last_scores(lines: Lines) -> dict[str, dict[str, dict[str, float]]]:
    """{evaluator: {source: {metric: value}}}, the last of each, from "eval/<evaluator>/<metric>",
    which is of source "", or "eval/<evaluator>/<source>/<metric>".
    """
    last = {key: value for line in lines for key, value in line.items() if key.startswith("eval/")}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in last.items():
        if value is not None:  # NaN is null in metrics.jsonl
            _, evaluator, *source, metric = key.split("/")
            of_evaluator = found.setdefault(evaluator, {})
            of_evaluator.setdefault("/".join(source), {})[metric] = value
    return found


def time_spent(lines: Lines) -> list[Card]:
    """A card with the fractions of the wall time, over all lines of a run and its resumptions; none
    where nothing was timed.
    """
    fractions = goodput.fractions_of(lines)
    if not fractions:
        return []
    value = f"{fractions.get('time/step', 0):.0%}"
    return [Card("Time in training steps", value, goodput.format_fractions(fractions))]


def _patches(context: Context, weights: Weights, split: str) -> list[PatchView]:
    """Up to _PATCHES samples of a split, evenly spaced, under the first fixed mask; none for an
    objective that reconstructs nothing.
    """
    if not {"reconstruction", "rescaled"} & context.preview_names:
        return []
    store, patches = open_store(context.data.sources[context.source].store), []
    split = split or default_split(store.index["split"])
    chosen = _chosen(store.index["split"], split)
    for batch in context.batches(split):
        positions = batch[context.source]["position"].tolist()
        rows = [row for row, position in enumerate(positions) if position in chosen]
        chosen -= set(positions)  # the first crop of each is enough
        preview = context.preview(weights, batch, 0) if rows else {}
        if preview:
            tokens = context.features(weights, batch)["dense"]
            first = {positions[row]: row for row in reversed(rows)}
            patches += [
                _patch(context, preview, tokens, row, str(store.index["id"][position]))
                for position, row in first.items()
            ]
    return sorted(patches, key=lambda patch: patch.title)


def default_split(splits: np.ndarray) -> str:
    """The split that is drawn where none is asked for."""
    return "val" if (splits == "val").any() else "train"


def _chosen(splits: np.ndarray, split: str) -> set[int]:
    """Positions of up to _PATCHES samples of a split, evenly spaced."""
    members = np.flatnonzero(splits == split)
    if not len(members):
        return set()
    return set(members[np.linspace(0, len(members) - 1, _PATCHES).astype(int)].tolist())


def _patch(
    context: Context, preview: dict[str, np.ndarray], tokens: np.ndarray, row: int, title: str
) -> PatchView:
    def physical(z):
        return (
            (z * context.std + context.mean) * context.sensor.scales + context.sensor.offsets
        ).astype(np.float32)

    return PatchView(
        title=title,
        original=physical(preview["view"][row]),
        reconstruction=physical(preview.get("reconstruction", preview.get("rescaled"))[row]),
        masked=preview["masked"][row],
        valid=preview["valid"][row].all(-1),
        tokens=tokens[row],
    )


def _short(fingerprint: dict) -> dict:
    """The data fingerprint without the lists per band, which the header of the weights has."""
    return {
        source: {
            key: value for key, value in fields.items() if key not in ("sensor", "normalisation")
        }
        | {"sensor": fields["sensor"]["title"], "normalisation": fields["normalisation"]["source"]}
        for source, fields in fingerprint.items()
    }
