"""Gathers what the report page of a run shows: its metrics, pictures of its newest weights, its
configuration and its data.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eo_jax import sharding
from eo_jax.checkpoint import load
from eo_jax.data import open_store
from eo_jax.data.pipeline import Pipeline
from eo_jax.evaluators.base import Context, Weights
from eo_jax.experiment import make_context, make_experiment, make_normalisation
from eo_jax.monitor import goodput, writers
from eo_jax.report.page import PatchView, Report

_PATCHES = 4


def collect(workdir: Path, split: str) -> Report:
    """Everything the page of a run shows; restores its newest checkpoint."""
    config, step, params, carry = load(workdir)
    experiment = make_experiment(config)
    numbers = make_normalisation(experiment, Pipeline(experiment.data, experiment.run.seed))
    context = make_context(experiment, numbers, sharding.make_mesh(sharding.Config()))
    lines = writers.read_metrics(workdir)
    return Report(
        title=f"{experiment.objective_name} on {context.sensor.title}, step {step}",
        headline=headline(lines) + time_spent(lines),
        metrics=lines,
        patches=_patches(context, (params, carry), split),
        wavelengths_nm=context.sensor.axis,
        true_colour=context.sensor.composite,
        false_colour=context.sensor.false_colour or context.sensor.composite,
        config=config,
        versions=json.loads((workdir / "versions.json").read_text()),
        fingerprint=_short(json.loads((workdir / "data.json").read_text())),
        links={file.name: file.name for file in sorted(workdir.glob("*.safetensors"))},
    )


def headline(lines: list[dict]) -> list[tuple[str, str, str]]:
    """(label, value, note) of what a reader asks first, from the metrics of a run."""
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    last = {key: value for line in lines for key, value in line.items() if key.startswith("eval/")}
    last = {
        key: value for key, value in last.items() if value is not None
    }  # NaN is null in metrics.jsonl
    cards = (
        [("Loss", f"{losses[0]:.4f} to {losses[-1]:.4f}", "first and last logged step")]
        if losses
        else []
    )
    flat = [line for line in lines if "collapsed" in line]
    if flat:
        names = sorted({name for line in flat for name in line["collapsed"].split(", ")})
        note = f"logged steps where nearly all samples had the same vector ({', '.join(names)})"
        cards.append(("Collapsed", f"step {flat[0]['step']} to {flat[-1]['step']}", note))
    for evaluator, make in (
        ("reconstruction", _reconstruction_cards),
        ("linear_probe", _probe_cards),
    ):
        for source, found in sorted(_by_source(last, evaluator).items()):
            cards += [
                (f"{title} of {source}" if source else title, value, note)
                for title, value, note in make(found)
            ]
    return cards


def _by_source(last: dict[str, float], evaluator: str) -> dict[str, dict[str, float]]:
    """{source: {metric: value}} of an evaluator, from "eval/<evaluator>/<metric>", which is of
    source "", or "eval/<evaluator>/<source>/<metric>".
    """
    found: dict[str, dict[str, float]] = {}
    for key, value in last.items():
        source, _, metric = key.removeprefix(f"eval/{evaluator}/").rpartition("/")
        if key.startswith(f"eval/{evaluator}/"):
            found.setdefault(source, {})[metric] = value
    return found


def _reconstruction_cards(found: dict[str, float]) -> list[tuple[str, str, str]]:
    cards = [
        (
            "Reconstruction RMSE",
            f"{found['rmse']:.4f}",
            "reflectance, masked tokens of held-out patches",
        )
    ]
    for baseline, title in (
        ("mean_visible", "Mean of the visible pixels"),
        ("nearest_token", "Nearest visible token copied"),
    ):
        cards.append(
            (
                title,
                f"{found[f'{baseline}_rmse']:.4f}",
                f"baseline; the model has {found[f'ratio_to_{baseline}']:.3f} of it",
            )
        )
    return cards


def _probe_cards(found: dict[str, float]) -> list[tuple[str, str, str]]:
    if "accuracy" not in found:
        return [
            (
                "Linear probe",
                "not scored",
                "the held-out patches have fewer than two classes; hold out more of them",
            )
        ]
    note = (
        f"untrained encoder {found['untrained_accuracy']:.1%}, gain {100 * found['gain']:+.1f} "
        "points"
    )
    return [("Linear probe", f"{found['accuracy']:.1%}", note)]


def time_spent(lines: list[dict]) -> list[tuple[str, str, str]]:
    """A card with the fractions of the wall time, over all lines of a run and its resumptions; none
    where nothing was timed.
    """
    fractions = goodput.fractions_of(lines)
    return (
        [
            (
                "Time in training steps",
                f"{fractions.get('time/step', 0):.0%}",
                goodput.format_fractions(fractions),
            )
        ]
        if fractions
        else []
    )


def _patches(context: Context, weights: Weights, split: str) -> list[PatchView]:
    """Up to four samples of a split, evenly spaced, as the first fixed mask shows them."""
    store, patches = open_store(context.data.sources[context.source].store), []
    members = np.flatnonzero(store.index["split"] == split)
    chosen = (
        set(members[np.linspace(0, len(members) - 1, _PATCHES).astype(int)].tolist())
        if len(members)
        else set()
    )
    for batch in context.batches(split):
        positions = batch[context.source]["position"].tolist()
        wanted = [row for row, number in enumerate(positions) if number in chosen]
        chosen -= set(positions)  # the first crop of each is enough
        if wanted:
            preview, tokens = (
                context.preview(weights, batch, 0),
                context.features(weights, batch)["dense"],
            )
            first = {positions[row]: row for row in reversed(wanted)}
            patches += [
                _patch(context, preview, tokens, row, str(store.index["id"][number]))
                for number, row in first.items()
                if preview
            ]
    return sorted(patches, key=lambda patch: patch.title)


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
    """The data fingerprint without the 202-number lists, which the weights' header carries."""
    return {
        source: {
            key: value for key, value in fields.items() if key not in ("sensor", "normalisation")
        }
        | {"sensor": fields["sensor"]["title"], "normalisation": fields["normalisation"]["source"]}
        for source, fields in fingerprint.items()
    }
