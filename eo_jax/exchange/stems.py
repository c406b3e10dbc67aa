"""Rules that make the first layer of a network for some bands that of one for other bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of optical and thermal bands, in nanometres; micrometres would be outside.
_LEAST_NM, _MOST_NM = 200, 20_000
RULES = ("repeat-and-scale", "by-wavelength", "new")


def fit_bands(
    weight: np.ndarray,
    rule: str,
    bands: int,
    source_nm: Sequence[float],
    target_nm: Sequence[float],
) -> np.ndarray | None:
    """[out, in, row, column] -> [out, bands, row, column]; None for the weights of a fresh network.

    Args:
        rule: "repeat-and-scale": the kernels of all bands in turn, times in / bands, as timm does;
            "by-wavelength": interpolated between the two bands around a wavelength, those at the
            ends beyond them, times in / bands; "new".
        source_nm, target_nm: centre wavelengths, for "by-wavelength".

    Raises ValueError for another rule, and for wavelengths that are not there.
    """
    given = weight.shape[1]
    if rule == "new":
        return None
    if rule == "repeat-and-scale":
        return weight[:, np.arange(bands) % given] * np.float32(given / bands)
    if rule != "by-wavelength":
        raise ValueError(f"--stem: {rule!r}; expected one of {', '.join(RULES)}")
    if len(source_nm) != given or len(target_nm) != bands:
        raise ValueError(
            f"--stem=by-wavelength: needs a wavelength of each of the {given} bands of the file "
            f"(found {len(source_nm)}; give --bands-nm) and of the {bands} bands of the sensor "
            f"(found {len(target_nm)})"
        )
    for option, values in (("--bands-nm", source_nm), ("sensor", target_nm)):
        wrong = [nm for nm in values if not _LEAST_NM <= nm <= _MOST_NM]
        if wrong:
            raise ValueError(
                f"{option}: wavelength {wrong[0]:g}; expected nanometres, {_LEAST_NM} to {_MOST_NM}"
            )
    order = np.argsort(source_nm)
    sorted_nm = np.asarray(source_nm, float)[order]
    if (np.diff(sorted_nm) <= 0).any():
        raise ValueError("--bands-nm: two bands have the same wavelength")
    # One column per band of the file, interpolated by an identity.
    mixing = np.stack([np.interp(target_nm, sorted_nm, row) for row in np.eye(given)], axis=-1) * (
        given / bands
    )
    return np.einsum("oirc,bi->obrc", weight[:, order], mixing).astype(np.float32)
