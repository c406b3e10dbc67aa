"""Shared by the readers of SSL4EO-L and its benchmark: products, scene folders and dates."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

from data_prep.archive import Archive, ArchiveError
from data_prep.formats.listing import image_files
from eo_jax.sensors import get_sensor

PRODUCTS = {
    "tm_toa": get_sensor("landsat5_tm_toa"),
    "etm_toa": get_sensor("landsat7_etm_toa"),
    "etm_sr": get_sensor("landsat7_etm_sr"),
    "oli_tirs_toa": get_sensor("landsat8_oli_tirs_toa"),
    "oli_sr": get_sensor("landsat8_oli_sr"),
}
SIZE = 264  # pixels, height and width

_INNER = re.compile(r"(\d{7}/[^/]+)/all_bands\.tif")


def present_products(archive: Archive, wanted: Iterable[str], folder: str) -> list[str]:
    """The wanted products, or all in the archive; `folder` is the pattern of their folders.

    Raises ArchiveError where there is none.
    """
    present = [product for product in PRODUCTS if image_files(archive, folder.format(product))]
    for product in wanted:
        if product not in present:
            raise ArchiveError(
                folder.format(product),
                "no such folder, or no GeoTIFF in it; --products can be "
                f"{', '.join(present) or 'none'}",
            )
    if not present:
        expected = (
            f"<input>/{folder.format('<product>')}/<location>/<scene>/all_bands.tif, with a "
            f"product of {', '.join(PRODUCTS)}"
        )
        raise ArchiveError(".", f"contains no product of SSL4EO-L; expected {expected}")
    return sorted(set(wanted)) or present


def scenes(archive: Archive, folder: str) -> dict[str, str]:
    """{"<location>/<scene>": name} of the images below a product's folder, sorted.

    Raises ArchiveError for files outside this layout.
    """
    found = {}
    for name in image_files(archive, folder):
        inner = _INNER.fullmatch(name.removeprefix(f"{folder}/"))
        if not inner:
            raise ArchiveError(
                name,
                f"is not at {folder}/<location of 7 digits>/<scene>/all_bands.tif; move it there, "
                f"or out of {folder}/",
            )
        scene_time(name)
        found[inner[1]] = name
    return found


def scene_time(name: str) -> int:
    """Seconds since 1970 UTC of the date at the end of the name of a file's folder, at 00:00 UTC.

    Raises ArchiveError where there is none.
    """
    folder = name.split("/")[-2]
    try:
        if not re.fullmatch(r"\d{8}", folder[-8:]):
            raise ValueError(folder)
        moment = datetime.datetime.strptime(folder[-8:], "%Y%m%d")
    except ValueError as error:
        raise ArchiveError(
            name,
            f"its folder {folder!r} does not end in a date such as 20010526; restore its published "
            "name",
        ) from error
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())
