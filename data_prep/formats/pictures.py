"""Reads untrusted JPEG and PNG pictures with Pillow.

Pillow decodes JPEG the way it was decoded for the networks trained on them; GDAL does not.
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

# A palette ("P") gives its indices. Older versions of Pillow call 16 bits "I"; PNG has at most 16.
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
    """[c, h, w], uint8 or uint16, channels in the file's order.

    Raises ArchiveError where the format is not that of the name's suffix.
    """
    kind = FORMATS[PurePosixPath(name).suffix.lower()]
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 million pixels, by the header.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
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
            f"cannot be read as {kind} ({cause}); it is truncated, damaged or not {kind}: copy it "
            "again",
        ) from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_mode(name: str, image: Image.Image) -> None:
    if image.mode not in _DTYPES:
        raise ArchiveError(
            name, f"has mode {image.mode}, expected {', '.join(_DTYPES)}; write it in one of these"
        )
    if "transparency" in image.info:
        raise ArchiveError(
            name,
            "has a transparent colour, which would be taken for data; write it without, or cut it "
            "to the opaque part",
        )
