"""The file of results, and what is printed of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.accelerator.rows import ROWS
from eo_jax.data.store.files import write_atomically

PRODUCTS = "matrix_products"
# Figures with a column of their own, and how they are shown.
_COLUMNS = {
    "samples_per_s": "{:.4g}",
    "mfu": "{:.1%}",
    "mfu_of_products": "{:.1%}",
    "ours_to_it": "{:.2f}",
    "compile_s": "{:.1f}",
    "planned_gb": "{:.1f}",
    "peak_gb": "{:.1f}",
}
_HIDDEN = ("batch", "spread", "steps", "step_s", "loss", "first_loss", "flops_per_s")


def read(path: Path, scale: str) -> dict[str, Any]:
    """The results in a file, {} if there is none.

    Raises ValueError where they are of another scale, or not results.
    """
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_bytes())
        found, rows = about["scale"], about["rows"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: {type(error).__name__}, {error}: not a file of this benchmark; give the name "
            "of a new file"
        ) from error
    if found != scale:
        raise ValueError(
            f"{path}: its scale is {found!r}, expected {scale!r}; give the name of a new file"
        )
    return rows


def write(path: Path, scale: str, rows: Mapping[str, dict[str, Any]]) -> None:
    """Writes all results."""
    about = {"scale": scale, "rows": dict(rows)}
    write_atomically(path, (json.dumps(about, indent=1) + "\n").encode())


def with_ratios(rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results with figures that compare rows: "mfu_of_products", FLOP/s relative to the best
    matrix product, and "ours_to_it", our samples/s to those of a twin.
    """
    peak = _figure(rows, PRODUCTS, "flops_per_s")
    compared = {}
    for name, result in rows.items():
        figures = dict(result.get("figures", {}))
        if peak and name != PRODUCTS and "flops_per_s" in figures:
            figures["mfu_of_products"] = figures["flops_per_s"] / peak
        ours = _figure(rows, ROWS[name].over if name in ROWS else "", "samples_per_s")
        if ours and "samples_per_s" in figures:
            figures["ours_to_it"] = ours / figures["samples_per_s"]
        compared[name] = {**result, "figures": figures}
    return compared


def _figure(rows: Mapping[str, dict[str, Any]], name: str, figure: str) -> float | None:
    return rows.get(name, {}).get("figures", {}).get(figure)


def print_table(rows: Mapping[str, dict[str, Any]]) -> None:
    """Prints a line per row."""
    table = Table("row", "s", *(name.replace("_", " ") for name in _COLUMNS), "further figures")
    for name, result in rows.items():
        figures = result.get("figures", {})
        cells = [
            form.format(figures[key]) if key in figures else "" for key, form in _COLUMNS.items()
        ]
        seconds = f"{result['seconds']:.0f}" if "seconds" in result else ""
        table.add_row(name, seconds, *cells, further(result))
    Console(width=180).print(table)


def further(result: Mapping[str, Any]) -> str:
    """The figures that have no column, and why the row failed or was skipped."""
    others = {
        key: value
        for key, value in result.get("figures", {}).items()
        if key not in _COLUMNS and key not in _HIDDEN
    }
    reason = [f"{why}: {result[why]}" for why in ("failed", "skipped") if why in result]
    return ", ".join([*(f"{key} {_shown(value)}" for key, value in others.items()), *reason])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:80]
