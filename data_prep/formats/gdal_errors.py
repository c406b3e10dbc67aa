"""What rasterio raises for files that GDAL cannot read."""

from __future__ import annotations

from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError

# CRSError and CPLE_BaseError are raised for impossible coordinate systems, UnicodeDecodeError for
# damaged text of a tag or of a unit.
GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError)
