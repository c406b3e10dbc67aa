"""The published heads, by the name of their objective."""

from __future__ import annotations

from eo_jax.exchange.heads import dino, mae, moco_v3
from eo_jax.exchange.heads.head import Head
from eo_jax.models.encoder import Encoder

HEADS: dict[str, Head] = {"mae": mae.HEAD, "dino": dino.HEAD, "moco_v3": moco_v3.HEAD}
_WITHOUT = "leave out --with-head"


def head_of(objective: str, layout: str, encoder: Encoder) -> Head:
    """The published head of an objective on an encoder in a layout.

    Raises ValueError where there is none, or none on such an encoder.
    """
    if objective not in HEADS:
        raise ValueError(
            f"--with-head: objective {objective!r}; the names of published heads are known of "
            f"{', '.join(HEADS)}; {_WITHOUT}"
        )
    head = HEADS[objective]
    if layout not in head.layouts:
        raise ValueError(
            f"--with-head: layout {layout!r}; {head.network} has an encoder in "
            f"{' or '.join(head.layouts)}; {_WITHOUT}"
        )
    for field in ("registers", "layer_scale") if head.plain else ():
        if found := getattr(encoder.trunk, field):
            raise ValueError(
                f"--with-head: config.model.trunk.{field} is {found}; {head.network} has none; "
                f"{_WITHOUT}"
            )
    return head
