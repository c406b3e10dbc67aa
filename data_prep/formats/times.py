"""Times in tags, headers and names of files."""

from __future__ import annotations

import datetime


def utc_seconds(text: str) -> int:
    """Seconds since 1970 UTC of an ISO time, which is UTC if it has no zone. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())
