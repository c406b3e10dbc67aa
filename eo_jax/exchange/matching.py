"""Whether pixels are what a contract asks for: product, bands, type, scale, no-data and size.

What differs is an error that says what was found, what was expected and what to do. Needs neither
JAX nor a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eo_jax.sensors.base import Sensor, check_wavelengths


def band_order(
    product: Sensor,
    names: Sequence[str] | None,
    nm: Sequence[float] | None,
    reorder: bool = False,
) -> list[int]:
    """The indices of the product's bands among bands with these names, these wavelengths or both.

    Args:
        product: the sensor of the contract.
        names, nm: of the bands of the pixels, in their order; None where they are not known. One of
            them is needed, and both are compared.
        reorder: whether bands may be in another order, or more than are needed; by names only.

    Raises:
        ValueError: a band is missing, in the wrong position, or of another wavelength.
    """
    order = list(range(len(product.bands)))
    if names is None and (nm is None or reorder or not np.isfinite(product.centres_nm).all()):
        expected = ", ".join(band.name for band in product.bands)
        raise ValueError(f"bands: not given; name them in their order, for example: {expected}")
    if names is not None:
        names = list(names)
        order = _by_name(product, names, reorder)
        if nm is not None and len(nm) != len(names):
            raise ValueError(f"nm: {len(nm)} wavelengths for {len(names)} bands; one for each")
    if nm is not None:
        found = np.asarray(nm, float)
        check_wavelengths(product, found[order] if names is not None else found, "nm")
    return order


def _by_name(product: Sensor, names: list[str], reorder: bool) -> list[int]:
    expected = [band.name for band in product.bands]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"bands: {twice} is given twice; name every band of the pixels once")
    missing = [name for name in expected if name not in names]
    if missing:
        raise ValueError(
            f"bands: {', '.join(missing[:5])} of {product.title} missing; found {_listed(names)}, "
            f"expected {_listed(expected)}"
        )
    if names != expected and not reorder:
        pairs = zip(names, [*expected, *[None] * len(names)], strict=False)
        at, (found, wanted) = next((i, pair) for i, pair in enumerate(pairs) if len(set(pair)) > 1)
        what = f"expected {wanted}" if wanted else "which the encoder does not have"
        raise ValueError(
            f"bands: position {at} has {found}, {what}; the encoder's order is "
            f"{_listed(expected)}. Give the pixels so, or reorder=True to take bands by their names"
        )
    return [names.index(name) for name in expected]


def check_product(
    product: Sensor,
    sensor: str,
    dtype: str,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    nodata: float | None = None,
) -> None:
    """Raises ValueError for pixels of another product, or that are not its digital numbers.

    Args:
        product: the sensor of the contract.
        sensor: id of the product of the pixels, as eo_jax names it.
        dtype: of the pixels.
        scale, offset: what the file of the pixels says, for all bands or each of the product's;
            None where it says nothing.
        nodata: the file's no-data value; None where it has none.
    """
    if sensor != product.id:
        raise ValueError(
            f"sensor: {sensor!r}; the encoder is for {product.id!r} ({product.title}), and bands "
            "of the same names have other values in another product"
        )
    if dtype != product.dtype:
        raise ValueError(
            f"dtype: {dtype}; the encoder takes {product.dtype} digital numbers of "
            f"{product.title}, not scaled to {product.units}: (physical - offset) / scale undoes "
            "that, and a conversion that keeps every value is yours to make"
        )
    for name, found, expected in (
        ("scale", scale, product.scales),
        ("offset", offset, product.offsets),
    ):
        if found is None:
            continue
        same = np.shape(found) in ((), expected.shape) and np.allclose(
            found, expected, rtol=1e-6, atol=1e-12
        )
        if not same:
            raise ValueError(
                f"{name}: {_numbers(found)}; {product.title} has {_numbers(expected)} to "
                f"{product.units}, so these digital numbers mean other values; convert them to "
                "the product's, or use weights for theirs"
            )
    if nodata is not None and np.isfinite(nodata) and nodata != product.nodata:
        raise ValueError(f"nodata: {nodata:g}; {_without_data(product)}")


def _without_data(product: Sensor) -> str:
    if product.nodata is None:
        return (
            f"{product.title} has no such value, so the encoder would read these pixels as data; "
            "use images without them, and do not give nodata"
        )
    return f"{product.title} has {product.nodata:g}; set the pixels without data to that"


def check_size(contract: Mapping[str, Any], rows: int, columns: int) -> None:
    """Raises ValueError for images that the exported network does not take: another size than that
    of its positions, or one that patches do not divide.
    """
    architecture, size = contract["architecture"], contract["image_size"]
    if "tokens" in architecture and (rows, columns) != (size, size):
        raise ValueError(
            f"size: {rows} x {columns} pixels; the positions in the file are for {size} x {size}. "
            f"Cut the image so, or export with --image-size={rows}"
        )
    patch = architecture["patch"]
    if rows % patch or columns % patch or not rows or not columns:
        raise ValueError(
            f"size: {rows} x {columns} pixels; expected multiples of the patch, {patch}; crop the "
            "image, do not resize it"
        )


def statistics(normalisation: Mapping[str, Any], product: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std), float32 [c], of a contract or of the normalisation in data.json.

    Raises ValueError where they are not finite numbers, one per band, or a std is not above 0.
    """
    mean, std = (np.asarray(normalisation[key], np.float32) for key in ("mean", "std"))
    for key, values in (("mean", mean), ("std", std)):
        if values.shape != (len(product.bands),) or not np.isfinite(values).all():
            raise ValueError(
                f"{key} has shape {values.shape}, expected {len(product.bands)} finite numbers, "
                "one per band"
            )
    if not (std > 0).all():
        raise ValueError(f"std has the value {std.min():g}, expected numbers above 0")
    return mean, std


def normalised(
    mean: np.ndarray, std: np.ndarray, product: Sensor, pixels: np.ndarray
) -> np.ndarray:
    """float32 [b, c, h, w]: (digital number - mean) / std, 0 where there is no data."""
    missing = product.missing(pixels)
    mean, std = mean[:, None, None], std[:, None, None]
    with np.errstate(invalid="ignore"):  # infinity is no data
        return np.where(missing, np.float32(0), (pixels.astype(np.float32) - mean) / std)


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 15:
        return ", ".join(names)
    return f"{', '.join(names[:6])}, ..., {names[-1]} ({len(names)} bands)"


def _numbers(values: Any) -> str:
    different = sorted(set(np.atleast_1d(np.asarray(values, float)).tolist()))
    return ", ".join(f"{value:g}" for value in different[:5])
