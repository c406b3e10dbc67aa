"""The two modes from their arguments to their outputs."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import jax

from data_prep.jobs import progress
from eo_jax import compile_cache
from eo_jax.averaging import check_window
from eo_jax.embed import dense, geotiff, pooled, table, zarr_map
from eo_jax.embed.images import Declared, Images, is_geotiff
from eo_jax.encoder_loading import from_file, from_workdir
from eo_jax.lock import locked
from eo_jax.trained_encoder import TrainedEncoder

_BATCH_BYTES, _LARGEST_BATCH = 64 * 2**20, 64
# {format: (endings, writer, reader of the facts)}
_TABLES = {
    "npz": ((".npz",), table.write_npz, table.facts_of_npz),
    "parquet": ((".parquet", ".geoparquet"), table.write_parquet, table.facts_of_parquet),
}
_MAPS = {
    "cog": ((".tif", ".tiff"), geotiff.write_cog, geotiff.facts_of),
    "zarr": ((".zarr",), zarr_map.write_zarr, zarr_map.facts_of),
}


_FORMATS = {"pooled": _TABLES, "dense": _MAPS}
# Options of one mode, with what they mean where they are not given.
_OPTIONS = {
    "pooled": {"larger": "refuse"},
    "dense": {"overlap": None, "dtype": "float32", "average": 1},
}


def run(arguments: argparse.Namespace) -> int:
    """The command; arguments are those of `__main__.parser`."""
    _check_options(arguments)
    compile_cache.enable()
    single = arguments.mode == "pooled" or is_geotiff(arguments.input)
    kind = _format(arguments, single)
    _check_device(arguments.device)
    trained = (
        from_file(arguments.weights, arguments.view)
        if arguments.weights
        else from_workdir(arguments.workdir, arguments.encoder, arguments.view)
    )
    if arguments.harmonised and not trained.sensor.id.startswith("sentinel2"):
        raise ValueError(f"--harmonised: is of Sentinel-2; the weights are for {trained.sensor.id}")
    declared = Declared(arguments.bands_are_in_order, arguments.reorder, arguments.harmonised)
    images = Images(arguments.input, trained.sensor, declared)
    batch = _batch_size(arguments.batch_size, trained)
    print(
        f"encoder {trained.name}: {trained.sensor.title}; views of {trained.view} pixels, tokens "
        f"of {trained.patch}, {trained.width} channels; on {jax.devices()[0].platform}",
        flush=True,
    )
    if arguments.mode == "pooled":
        _run_pooled(arguments, images, trained, batch, kind)
    else:
        _run_dense(arguments, images, trained, batch, kind, single)
    return 0


# ------------------------------------------------------------------ pooled


def _run_pooled(
    arguments: argparse.Namespace, images: Images, trained: TrainedEncoder, batch: int, kind: str
) -> None:
    _, write, facts_of = _TABLES[kind]
    output, files, remarks = arguments.output, [], collections.Counter()
    for name in images.names:
        with images.open(name) as image:
            pooled.check_size(image, trained, arguments.larger)
            files.append((name, image.sha256, image.sidecars))
            remarks.update(image.remarks)
    _say(remarks)
    facts = pooled.facts_of(trained, arguments.larger, batch, files)
    if _is_there(output, facts, facts_of):
        return
    folder = _scratch_folder(output)
    with locked(folder), progress.show(output.name, len(files), "files") as advance:
        made, scratch = pooled.make_table(
            images, trained, arguments.larger, batch, files, folder, advance
        )
        write(output, folder, made)
        scratch.remove()
    print(f"{output}: {len(files)} rows of {trained.width} features")


# ------------------------------------------------------------------ dense


def _run_dense(
    arguments: argparse.Namespace,
    images: Images,
    trained: TrainedEncoder,
    batch: int,
    kind: str,
    single: bool,
) -> None:
    _, write, facts_of = _MAPS[kind]
    overlap = _overlap(arguments.overlap, trained)
    outputs = _outputs(images.names, arguments.output, kind, single)
    views, remarks = 0, collections.Counter()
    for name in outputs:
        with images.open(name) as image:
            views += dense.views_of(image, trained, overlap)
            remarks.update(image.remarks)
    _say(remarks)
    with progress.show(arguments.output.name, views, "views") as advance:
        for name, output in outputs.items():
            output.parent.mkdir(parents=True, exist_ok=True)
            with images.open(name) as image:
                facts = dense.facts_of(image, trained, overlap, batch)
                count = dense.views_of(image, trained, overlap)
            facts = facts | {"dtype": arguments.dtype}
            if arguments.average > 1:
                facts |= {"average": arguments.average}
            if _is_there(output, facts, facts_of):
                advance(count, 0)
                continue
            folder = _scratch_folder(output)
            with locked(folder):
                with images.open(name) as image:
                    made, scratch = dense.make_map(image, trained, overlap, batch, folder, advance)
                if arguments.average > 1:
                    made = dense.averaged(made, arguments.average)
                write(output, folder, made._replace(facts=facts), arguments.dtype)
                scratch.remove()
            print(f"{output}: {made.rows} x {made.columns} tokens, {made.width} channels")


def _outputs(names: Sequence[str], output: Path, kind: str, single: bool) -> dict[str, Path]:
    """{input: its map}. Raises ValueError where two have the same one."""
    if single:
        return {names[0]: output}
    ending = _MAPS[kind][0][0]
    found = {name: output / PurePosixPath(name).with_suffix(ending) for name in names}
    same = [path for path, count in collections.Counter(found.values()).items() if count > 1]
    if same:
        raise ValueError(f"{same[0]}: would be the map of two files; rename one of them")
    return found


# ------------------------------------------------------------------ arguments


def _check_options(arguments: argparse.Namespace) -> None:
    """Sets the defaults of the mode's options. Raises ValueError for those of the other mode, and
    for others that do not go together.
    """
    for mode, options in _OPTIONS.items():
        for name, default in options.items():
            if getattr(arguments, name) is None:
                setattr(arguments, name, default)
            elif mode != arguments.mode:
                raise ValueError(f"--{name}: is of --mode={mode}")
    if arguments.mode == "dense":
        try:
            check_window(arguments.average)
        except ValueError as error:
            raise ValueError(f"--average: {error}") from error
    if arguments.encoder and arguments.weights:
        raise ValueError("--encoder: is of --workdir; a file of weights has one encoder")
    source, output = arguments.input.resolve(), arguments.output.resolve()
    if source in output.parents:
        raise ValueError(
            f"--output: {arguments.output} is inside of --input, where it would be an input of the "
            "next command; write it to another folder"
        )


def _format(arguments: argparse.Namespace, single: bool) -> str:
    """Raises ValueError where --output has the ending of another format or mode."""
    formats, asked = _FORMATS[arguments.mode], arguments.format
    by_ending = {
        ending: kind
        for kinds in _FORMATS.values()
        for kind, (endings, *_) in kinds.items()
        for ending in endings
    }
    found = by_ending.get(arguments.output.suffix.lower())
    if not single and found:
        raise ValueError(
            f"--output: {arguments.output}; --mode=dense writes a folder of maps for a folder, zip "
            "or tar; give the name of a folder"
        )
    kind = asked or found or ("" if single else "cog")
    if kind not in formats or found not in (None, kind):
        endings = [ending for ending, name in by_ending.items() if name in formats]
        raise ValueError(
            f"--output: {arguments.output}{f' with --format={asked}' if asked else ''}; "
            f"--mode={arguments.mode} writes {', '.join(endings)}, by the ending or "
            f"--format={'|'.join(formats)}"
        )
    if kind == "parquet":
        table.require_pyarrow()
    parent = arguments.output.parent
    if not parent.is_dir():
        raise ValueError(f"--output: folder {parent} does not exist; create it first")
    return kind


def _check_device(asked: str | None) -> None:
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        found = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"--device={asked or 'JAX_PLATFORMS'}: jax finds no such device "
            f"({', '.join(found) or 'none'}); pip install 'eo_jax[gpu]' or 'eo_jax[tpu]', or give "
            "--device=cpu"
        ) from error


def _batch_size(asked: int, trained: TrainedEncoder) -> int:
    if asked < 0:
        raise ValueError(f"--batch-size: {asked}; expected 1 or more")
    view_bytes = 4 * len(trained.sensor.bands) * trained.view**2
    return asked or min(max(1, _BATCH_BYTES // view_bytes), _LARGEST_BATCH)


def _overlap(asked: int | None, trained: TrainedEncoder) -> int:
    """In tokens."""
    if asked is None:
        return trained.side // 4
    tokens, rest = divmod(asked, trained.patch)
    if rest or not 0 <= tokens <= trained.side // 2:
        raise ValueError(
            f"--overlap: {asked}; expected a multiple of {trained.patch}, the side of a token, "
            f"from 0 to half of the view, {trained.side // 2 * trained.patch}"
        )
    return tokens


# ------------------------------------------------------------------ files


def _scratch_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _is_there(output: Path, facts: dict[str, Any], facts_of: Any) -> bool:
    """Whether an output is there already. Raises ValueError where it is another one."""
    if not output.exists():
        return False
    if facts_of(output) != facts:
        raise ValueError(
            f"{output}: exists, but not from these weights, files and settings; move it away, or "
            "give another --output"
        )
    print(f"{output}: is there already")
    return True


def _say(remarks: Mapping[str, int]) -> None:
    for text, count in sorted(remarks.items()):
        print(f"{count} files: {text}", flush=True)
