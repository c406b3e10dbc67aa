"""The head of a published class, beside an imported encoder, as that of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eo_jax.exchange.heads import head_of
from eo_jax.exchange.importing import Imported
from eo_jax.exchange.translation import to_ours_by
from eo_jax.models.encoder import Encoder
from eo_jax.objectives.base import HeadWeights


def with_head(
    imported: Imported,
    objective: Mapping[str, Any],
    encoder: Encoder,
    shapes: HeadWeights,
    image_size: int,
) -> Imported:
    """An imported encoder with the head that its file has beside it.

    Args:
        objective: section of the config of the new run.
        shapes: of the objective's heads, as of `jax.eval_shape`.
        image_size: side in pixels of the views of the new run.

    Raises:
        ValueError: no published class has the objective's head, or the file has none, or another.
    """
    head = head_of(objective["name"], imported.layout, encoder)
    shapes = head.taken(shapes)
    architecture = head.architecture(objective)
    tensors, left = head.split(imported.left, imported.prefix)
    _check_architecture(imported.contract, architecture)
    table = head.table_of(tensors, shapes, image_size // encoder.patch)
    params, statistics = to_ours_by(table, (shapes["params"], shapes["statistics"]), tensors)
    notes = [*imported.notes, f"head: {head.network}, {len(tensors)} tensors"]
    if imported.contract is None:
        notes += [
            f"{name} of the head is taken to be {found}: a state dict does not say"
            for name, found in architecture.items()
        ]
    return imported._replace(
        left=left, notes=notes, heads={"params": params, "statistics": statistics}
    )


def _check_architecture(contract: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> None:
    """Raises ValueError where a contract says another head than the config, or nothing of one."""
    if contract is None:
        return
    said = contract.get("head")
    theirs = said.get("architecture") if isinstance(said, dict) else None
    if not isinstance(theirs, dict):
        raise ValueError(
            "--with-head: the file's contract says nothing of the head's architecture; export it "
            "again from the run"
        )
    for field, expected in ours.items():
        if theirs.get(field) != expected:
            raise ValueError(
                f"--with-head: {field} of the head is {theirs.get(field)} in the file's contract, "
                f"{expected} in the config; give the config of the run that it is from"
            )
