"""Reads JPEG and PNG pictures from strangers with Pillow, which decodes JPEG as the networks
trained on them saw it (GDAL does not).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from data_prep.archive import ArchiveError

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}

# Of a palette, the indices. "I" is how older versions of Pillow call 16 bits; PNG has no more.
_DTYPES = {"RGB": np.uint8, "L": np.uint8, "P": np.uint8, "I;16": np.uint16, "I": np.uint16}
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_picture(name: str, data: bytes) -> np.ndarray:
    """[c, h, w], uint8 or uint16, channels in the file's order. Raises ArchiveError for what is not
    the format that the name's ending says.
    """
    kind = FORMATS[PurePosixPath(name).suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", Image.DecompressionBombWarning
            )  # Pillow warns from 89 million pixels on, by the header
            with Image.open(io.BytesIO(data), formats=(kind,)) as image:
                _check_mode(name, image)
                pixels = np.asarray(image, _DTYPES[image.mode])
    except ArchiveError:
        raise
    except _TOO_LARGE as error:
        raise ArchiveError(name, f"is too large ({error}); cut it") from error
    except _DAMAGED as error:
        cause = " ".join(str(error).split()).replace(" <_io.BytesIO object", "").split(" at 0x")[0]
        raise ArchiveError(
            name,
            f"cannot be read as {kind} ({cause}); it is truncated, damaged or no {kind}: copy it "
            "again",
        ) from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_mode(name: str, image: Image.Image) -> None:
    if image.mode not in _DTYPES:
        raise ArchiveError(
            name, f"has mode {image.mode}, expected {', '.join(_DTYPES)}; write it in one of these"
        )
