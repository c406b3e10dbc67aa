"""Weights of a PyTorch network as those of an encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from eo_jax.exchange import prefixes, translation
from eo_jax.exchange.contract import architecture_of, pooling_of
from eo_jax.exchange.layout import Layout
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.exchange.opening import open_weights
from eo_jax.exchange.positions import resample_positions
from eo_jax.exchange.reading import Tensors
from eo_jax.exchange.stems import fit_bands
from eo_jax.models.encoder import Encoder
from eo_jax.objectives.base import NO_HEADS, HeadWeights
from eo_jax.schema import Carry, Params


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of weights, and how to read it.

    Attributes:
        path: safetensors, npz, or a file of torch.save.
        layout: a name in `LAYOUTS`; "" for the first that fits the encoder.
        prefix: of the keys; None to look for it.
        stem: rule for other bands than the file's, of `stems.RULES`; "" where they are the same.
        bands_nm: wavelengths of the file's bands, for the rule "by-wavelength".
        allow_pth: whether a file of torch.save may be read.
        with_head: whether the objective's head is taken from it, too.
    """

    path: Path
    layout: str = ""
    prefix: str | None = None
    stem: str = ""
    bands_nm: Sequence[float] = ()
    allow_pth: bool = False
    with_head: bool = False


class Imported(NamedTuple):
    """The weights of an encoder from a file.

    Attributes:
        params, statistics: numpy arrays.
        layout, prefix: under which it was found.
        left: {key: tensor} of the rest of the file.
        contract: of the file; None where it has none.
        notes: what the config decides and what was changed, a line each.
        heads: of the objective, where they were asked for.
    """

    params: Params
    statistics: Carry
    layout: str
    prefix: str
    left: Tensors
    contract: dict[str, Any] | None
    notes: list[str]
    heads: HeadWeights = NO_HEADS

    @property
    def remarks(self) -> list[str]:
        """What was found, left out and changed, a line each."""
        return [
            f"layout {self.layout}: {LAYOUTS[self.layout].network}",
            f"prefix {self.prefix!r}",
            *(f"left out: {line}" for line in prefixes.summary(self.left, self.prefix)),
            *self.notes,
        ]


def import_encoder(source: Source, encoder: Encoder, image_size: int) -> Imported:
    """Reads the weights of an encoder.

    Args:
        image_size: side in pixels of the views of the new run, for learned positions.

    Raises:
        ValueError: the file does not hold such an encoder; the message names the first mistake.
    """
    tensors, contract = open_weights(source.path, allow_pth=source.allow_pth)
    return weights_of(tensors, contract, source, encoder, image_size)


def weights_of(
    tensors: Tensors,
    contract: dict[str, Any] | None,
    source: Source,
    encoder: Encoder,
    image_size: int,
) -> Imported:
    """The same from the content of a file, of `open_weights`."""
    if source.bands_nm and source.stem != "by-wavelength":
        raise ValueError("--bands-nm: is of --stem=by-wavelength")
    if contract is not None:
        _check_encoder(source, contract, encoder)
    name = layout_name(encoder, source.layout or (contract or {}).get("layout", ""))
    layout = LAYOUTS[name]
    tensors = layout.separated(tensors)
    needed = _keys(layout, encoder, image_size)
    prefix = prefixes.find_prefix(tensors, needed, source.prefix)
    taken, left = prefixes.under_prefix(layout, tensors, prefix)
    taken = layout.unified(encoder, taken)
    notes = _without_contract(encoder) if contract is None else _pooling(encoder, contract)
    notes += _fit_bands(taken, layout, source, encoder, contract)
    image_size, resized = _fit_positions(taken, layout, encoder, image_size)
    params, statistics = translation.to_ours(layout, encoder, taken, image_size)
    others = {key: tensors[key] for key in left}
    return Imported(params, statistics, name, prefix, others, contract, notes + resized)


def _keys(layout: Layout, encoder: Encoder, image_size: int) -> list[str]:
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    ours = {path: leaf for tree in shapes for path, leaf in translation.unstacked_shapes(tree)}
    table = layout.table(encoder, image_size)
    return [*translation.cells_of(table, ours), *table.computed]


def _check_encoder(source: Source, contract: dict[str, Any], encoder: Encoder) -> None:
    """Raises ValueError where the contract is of another network or sensor than the config."""
    if source.layout not in ("", contract["layout"]):
        raise ValueError(
            f"--layout: {source.layout!r}; {source.path} has the layout {contract['layout']!r}"
        )
    ours = architecture_of(encoder, contract["image_size"])
    for field in sorted(ours.keys() | contract["architecture"].keys()):
        found, expected = contract["architecture"].get(field), ours.get(field)
        if found != expected and not (field == "channels" and source.stem):
            raise ValueError(
                f"{source.path}: {field} is {found}, the config's encoder has {expected}; give the "
                "config of the run that it is from"
            )
    if not source.stem:
        _check_sensor(source, contract["sensor"], encoder.sensor.row())


def _check_sensor(source: Source, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises ValueError where digital numbers of the config's sensor mean something else."""
    fit = "fit its first layer with --stem of eo_jax.import_torch"
    for field in ("id", "dtype", "scale", "offset", "units", "nodata"):
        if theirs.get(field) != ours[field]:
            raise ValueError(
                f"{source.path}: the sensor's {field} is {theirs.get(field)!r}, the config's has "
                f"{ours[field]!r}; {fit}"
            )
    for field in ("name", "centre_nm", "scale", "offset"):
        found, expected = theirs["bands"].get(field), ours["bands"].get(field)
        if found != expected:
            raise ValueError(
                f"{source.path}: is for bands with {field} {_words(found)}, the config's sensor "
                f"{ours['id']!r} has {_words(expected)}; {fit}"
            )


def _words(column: list | None) -> str:
    return ", ".join(map(str, column or ["not known"]))


def _without_contract(encoder: Encoder) -> list[str]:
    """What a state dict does not say, and so the config decides."""
    if encoder.kind != "tokens":
        return []
    return [
        f"heads {encoder.trunk.heads} and LayerNorm epsilon 1e-6 are the config's: a state dict "
        "does not say; with others, features would be wrong without an error"
    ]


def _pooling(encoder: Encoder, contract: Mapping[str, Any]) -> list[str]:
    """No weight depends on it, and fine-tuning often changes it."""
    theirs, ours = contract["pool"], pooling_of(encoder)
    return [] if theirs == ours else [f"pool {ours!r} is the config's, that of the file {theirs!r}"]


def _fit_bands(
    taken: Tensors,
    layout: Layout,
    source: Source,
    encoder: Encoder,
    contract: Mapping[str, Any] | None,
) -> list[str]:
    """Fits the first layer to the sensor's bands, in `taken`."""
    bands = encoder.sensor.bands
    weight = taken.get(layout.bands)
    if source.stem and not layout.bands:
        raise ValueError(
            f"--stem: {layout.network} has no kernel per band that a rule could fit to other bands"
        )
    if weight is None or weight.ndim != 4 or not weight.size:
        return []  # the comparison of shapes refuses it
    if weight.shape[1] == len(bands) and not source.stem:
        return []
    if not source.stem:
        raise ValueError(
            f"{layout.bands}: is for {weight.shape[1]} bands, sensor {encoder.sensor.id!r} has "
            f"{len(bands)}; give a rule: --stem of eo_jax.import_torch"
        )
    known = (contract["sensor"]["bands"].get("centre_nm") or []) if contract else []
    known = [nm for nm in known if nm is not None]
    if source.bands_nm and known:
        raise ValueError(f"--bands-nm: {source.path} says its wavelengths; leave the option out")
    file_nm = source.bands_nm or known
    sensor_nm = [band.centre_nm for band in bands if band.centre_nm is not None]
    fitted = fit_bands(weight, source.stem, len(bands), file_nm, sensor_nm)
    if fitted is None:
        fitted = _fresh(layout, encoder)
    taken[layout.bands] = fitted
    return [f"{layout.bands}: {weight.shape[1]} bands to {len(bands)} by {source.stem}"]


def _fresh(layout: Layout, encoder: Encoder) -> np.ndarray:
    params, statistics = encoder.network.init(jax.random.key(0))
    return translation.to_torch(layout, encoder, params, statistics, encoder.patch)[layout.bands]


def _fit_positions(
    taken: Tensors, layout: Layout, encoder: Encoder, image_size: int
) -> tuple[int, list[str]]:
    """(image size of the positions, remarks): learned ones are resampled, in `taken`."""
    found = taken.get(layout.positions)
    if found is None or found.ndim != 3:
        return image_size, []
    prefix = int(layout.class_position(encoder))
    side = round(max(found.shape[1] - prefix, 0) ** 0.5)
    if encoder.trunk.positions != "learned":
        return side * encoder.patch or image_size, []
    if side == encoder.trunk.grid or side**2 + prefix != found.shape[1] or side < 2:
        return image_size, []  # the comparison of shapes refuses others
    taken[layout.positions] = resample_positions(found, encoder.trunk.grid, prefix)
    grid = encoder.trunk.grid
    return image_size, [f"{layout.positions}: resampled from {side} x {side} to {grid} x {grid}"]
