"""Opens a page in a headless browser at some widths, and says what does not fit or load."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (420, 800, 1400)  # pixels: a phone, a tablet, a desk

# The widths are those of frames in one page: a window cannot be narrower than 500 pixels. The page
# is in `srcdoc`, whose document the script may read.
_HARNESS = """<!doctype html><meta charset="utf-8"><title>waiting</title>{frames}<script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument;
    return {{
      width: frame.clientWidth,
      room: page.documentElement.clientWidth,
      scroll: page.documentElement.scrollWidth,
      images: page.images.length,
      empty: [...page.images].filter(image => !image.naturalWidth).map(image => image.alt),
    }};
  }});
  document.title = JSON.stringify(found);
}});
</script>"""


def find() -> str:
    """The path of a browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no browser to look at pages: none of {', '.join(NAMES)} is installed")
    return found


def look(page: str, folder: Path) -> list[dict]:
    """{"width", "room", "scroll", "images", "empty"} of a page, per width: the widths of its
    frame, of that without a scroll bar, and of its contents; the number of its pictures, and the
    names of those that did not load.
    """
    source = html.escape(page, quote=True)
    frames = "".join(
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{source}"></iframe>'
        for width in WIDTHS
    )
    harness = folder / "harness.html"
    harness.write_text(_HARNESS.format(frames=frames), encoding="utf-8")
    dump = subprocess.run(
        [
            *(find(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1200"),
            harness.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(folder)},
    ).stdout
    title = re.search(r"<title>(.*?)</title>", dump, re.DOTALL)
    assert title and title[1] != "waiting", "the browser did not load the page"
    return json.loads(html.unescape(title[1]))


def check(page: str, folder: Path) -> None:
    """Asserts that nothing is wider than the window, and that every picture has loaded."""
    seen = look(page, folder)
    assert [one["width"] for one in seen] == list(WIDTHS)
    assert {one["width"]: one["scroll"] for one in seen if one["scroll"] > one["room"]} == {}
    assert all(one["images"] for one in seen)
    assert [one["empty"] for one in seen] == [[]] * len(WIDTHS)
