"""Fixtures that several test files use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real sample data, which is not part of the repository."""
    folder = Path(os.environ.get("EO_JAX_SAMPLE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set EO_JAX_SAMPLE_DATA to their folder")
    return folder
