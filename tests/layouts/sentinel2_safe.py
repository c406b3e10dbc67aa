"""Sentinel-2 products: L1C and L2A of baseline 05.09 of one tile and date, and L2A of baseline
02.14; 36 x 48 pixels of 10 m, cut into patches of 10 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

from eo_jax.sensors import get_sensor

OPTIONS = {"patch_size": 10}
L1C = "S2A_MSIL1C_20220706T085611_N0509_R007_T33NZA_20240706T105611"
L2A = "S2A_MSIL2A_20220706T085611_N0509_R007_T33NZA_20240706T153419"
OLD = "S2B_MSIL2A_20200601T085559_N0214_R007_T33NZB_20200601T120000"
ROWS = {
    L1C: "sentinel2_l1c_offset_uint16",
    L2A: "sentinel2_l2a_offset_uint16",
    OLD: "sentinel2_l2a_uint16",
}
HEIGHT, WIDTH = 36, 48  # of 10 m
SATURATED = 65535


def bands(product: str) -> dict[str, int]:
    """{band: pixel size in m} of a product, in the order of its row."""
    return {band.name: int(band.gsd_m) for band in get_sensor(ROWS[product]).bands}


def path_of(folder: Path, product: str, band: str, metres: int) -> Path:
    """The JP2 of a band ("B2") or of SCL in a .SAFE folder."""
    name = f"B{band[1:]:0>2}" if band != "SCL" else band
    stem = f"{product.split('_')[5]}_{product.split('_')[2]}_{name}"
    images = folder / "GRANULE" / granule(product) / "IMG_DATA"
    if "L1C" in product:
        return images / f"{stem}.jp2"
    return images / f"R{metres}m" / f"{stem}_{metres}m.jp2"


def granule(product: str) -> str:
    return f"{product.split('_')[1][3:]}_{product.split('_')[5]}_A036745_20220706T091611"


def plane(product: str, band: str, metres: int) -> np.ndarray:
    """uint16 [h, w] at its resolution; the upper left 60 m are no-data, and a pixel of the finest
    bands near the lower right corner is saturated.
    """
    factor = metres // 10
    rng = np.random.default_rng([list(ROWS).index(product), list(bands(product)).index(band)])
    values = rng.integers(1000, 9000, (HEIGHT // factor, WIDTH // factor))
    values[: 6 // factor, : 6 // factor] = 0
    if band == "B3":
        values[-2, -2] = SATURATED
    return values.astype(np.uint16)


def classes(metres: int) -> np.ndarray:
    """uint8 [h, w] of SCL: clouds of all kinds in the upper right quarter of 24 x 18 pixels, a
    defect below them, shadow at the lower left.
    """
    factor = metres // 10
    codes = np.full((HEIGHT, WIDTH), 4)
    codes[:6, :6] = 0
    codes[:18, 24:], codes[:12, 24:], codes[:6, 24:] = 8, 9, 10
    codes[24:30, 36:42] = 1
    codes[18:, :24] = 3
    return codes[::factor, ::factor].astype(np.uint8)


def write(root: Path) -> None:
    for product in ROWS:
        write_product(root, product)


def write_product(root: Path, product: str) -> Path:
    """The .SAFE folder of a product, with files that are not read."""
    folder = root / f"{product}.SAFE"
    for band, metres in bands(product).items():
        write_jp2(path_of(folder, product, band, metres), plane(product, band, metres), metres)
    if "L2A" in product:
        for metres in (20, 60):
            write_jp2(path_of(folder, product, "SCL", metres), classes(metres), metres)
        coarse = plane(product, "B2", 10)[::2, ::2]
        write_jp2(path_of(folder, product, "B2", 20), coarse, 20)  # not native
    write_jp2(folder / "GRANULE" / granule(product) / "QI_DATA" / "MSK_CLASSI_B00.jp2", classes(60))
    (folder / f"MTD_MSI{product.split('_')[1][3:]}.xml").write_text(metadata(product))
    return folder


def write_jp2(path: Path, values: np.ndarray, metres: int = 60) -> None:
    """A lossless JPEG 2000 of values [h, w]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "count": 1,
        "height": values.shape[0],
        "width": values.shape[1],
        "dtype": values.dtype.name,
        "crs": "EPSG:32633",
        "transform": Affine(metres, 0, 399960, 0, -metres, 5300040),
    }
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(path, "w", driver="JP2OpenJPEG", **profile, **lossless) as file:
        file.write(values, 1)


def metadata(product: str, **changes: str) -> str:
    """MTD_MSIL1C.xml or MTD_MSIL2A.xml; `changes` are {element: text}, "" to leave it out."""
    level, baseline = product.split("_")[1][4:], product.split("_N")[1][:4]
    texts = {
        "PRODUCT_START_TIME": "2022-06-06T08:56:11.024Z",
        "PRODUCT_URI": f"{product}.SAFE",
        "PROCESSING_LEVEL": f"Level-{level}",
        "PROCESSING_BASELINE": f"{baseline[:2]}.{baseline[2:]}",
        "NODATA": "0",
        "SATURATED": str(SATURATED),
        "QUANTIFICATION": "10000",
        "OFFSET": "-1000" if baseline >= "0400" else "",
        "CENTRAL_B3": "560.0",
        **changes,
    }
    info = "".join(f"<{key}>{texts[key]}</{key}>" for key in list(texts)[:4] if texts[key])
    special = "".join(
        "<Special_Values>"
        f"<SPECIAL_VALUE_TEXT>{key}</SPECIAL_VALUE_TEXT>"
        f"<SPECIAL_VALUE_INDEX>{texts[key]}</SPECIAL_VALUE_INDEX></Special_Values>"
        for key in ("NODATA", "SATURATED")
        if texts[key]
    )
    image = special + _quantification(level, texts["QUANTIFICATION"])
    image += _offsets(level, texts["OFFSET"]) + _spectra(texts["CENTRAL_B3"])
    root = f"n1:Level-{level}_User_Product"
    schema = f"https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level}.xsd"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns:n1="{schema}"><n1:General_Info>'
        f"<Product_Info>{info}</Product_Info><Product_Image_Characteristics>{image}"
        f"</Product_Image_Characteristics></n1:General_Info></{root}>\n"
    )


def _quantification(level: str, value: str) -> str:
    if level == "1C":
        return f'<QUANTIFICATION_VALUE unit="none">{value}</QUANTIFICATION_VALUE>'
    return (
        '<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">'
        f"{value}</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>"
    )


def _offsets(level: str, value: str) -> str:
    """`value` may be the offsets of single bands, separated by spaces."""
    values = value.split() * (13 if " " not in value else 1)
    around, tag = (
        ("Radiometric_Offset_List", "RADIO_ADD_OFFSET")
        if level == "1C"
        else ("BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET")
    )
    offsets = "".join(
        f'<{tag} band_id="{number}">{each}</{tag}>' for number, each in enumerate(values)
    )
    return f"<{around}>{offsets}</{around}>" if values else ""


def _spectra(centre_of_b3: str) -> str:
    listed = "".join(
        f'<Spectral_Information bandId="{number}" physicalBand="{band.name}"><Wavelength>'
        f'<CENTRAL unit="nm">{centre_of_b3 if band.name == "B3" else band.centre_nm}</CENTRAL>'
        "</Wavelength></Spectral_Information>"
        for number, band in enumerate(get_sensor("sentinel2_l1c").bands)
    )
    return f"<Spectral_Information_List>{listed}</Spectral_Information_List>"
