"""Reads SUN RGB-D and NYU Depth v2 in the layout of CMX (arXiv 2203.04838): photographs with depth.

    <root>/RGB/<name>.jpg       or .png, uint8 [3, h, w]
    <root>/HHA/<name>.jpg       or .png, uint8 [3, h, w]: disparity, height above ground, angle with
                                gravity; and/or
    <root>/Depth/<name>.png     uint16 [1, h, w], depth as measured
    <root>/Label/<name>.png     class codes [h, w]; optional
    <root>/{train,test}.txt     one <name> per line; optional, but if there are lists, every name
                                must be in one

Each name is one group, with one sample per folder: `sunrgbd_rgb`, `sunrgbd_hha`, `sunrgbd_depth`.
An existing folder must have a file for each name. Label `segmentation`: raw codes, of which 0 is
"no label" (CMX subtracts 1 from each and ignores 255). Channels are in the file's order, R, G, B;
CMX reads HHA with OpenCV, so its networks get the three channels in reverse order. Pictures have
neither coordinates nor times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats.listing import sorted_by_id, split_lists
from data_prep.formats.pictures import FORMATS, read_picture
from data_prep.reader import File, Files, Item
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

_SENSORS = {
    "RGB": get_sensor("sunrgbd_rgb"),
    "HHA": get_sensor("sunrgbd_hha"),
    "Depth": get_sensor("sunrgbd_depth"),
}
_LABEL = "Label"


@dataclasses.dataclass(frozen=True)
class Reader:
    """SUN RGB-D, one sample per picture."""

    TITLE: ClassVar[str] = "SUN RGB-D / NYU Depth v2"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; see rgbd.cs.princeton.edu"
    sensors: ClassVar = tuple(_SENSORS.values())
    archive: Archive

    def items(self) -> list[Item]:
        folders = {
            folder: found for folder in (*_SENSORS, _LABEL) if (found := self._pictures(folder))
        }
        if "RGB" not in folders:
            raise ArchiveError(
                "RGB",
                "no such folder, or an empty one; expected RGB/<name>.jpg, and HHA/<name>.png or "
                "Depth/<name>.png",
            )
        _check_same_names(folders)
        splits = split_lists(
            self.archive, {split: f"{split}.txt" for split in ("train", "test")}, folders["RGB"]
        )
        kinds = [folder for folder in folders if folder != _LABEL]
        return sorted_by_id(
            Item(f"{name}/{kind.lower()}", name, _files(name, kind, folders), splits.get(name))
            for name in folders["RGB"]
            for kind in kinds
        )

    def read(self, item: Item, files: Files) -> Sample:
        name, sensor = item.files[0].name, _SENSORS[item.files[0].name.split("/")[0]]
        pixels = read_picture(name, files["image"])
        _check(name, pixels, len(sensor.bands), sensor.dtype)
        others = {file.role: read_picture(file.name, files[file.role]) for file in item.files[1:]}
        for role, other in others.items():
            if other.shape[1:] != pixels.shape[1:]:
                raise ArchiveError(
                    files.name(role),
                    f"{_size(other)} pixels, but {name} has {_size(pixels)}; copy both again",
                )
        labels = {
            role: _codes(files.name(role), other)
            for role, other in others.items()
            if role == "segmentation"
        }
        return Sample(pixels=pixels, sensor=sensor.id, id=item.id, group=item.group, labels=labels)

    def _pictures(self, folder: str) -> dict[str, str]:
        """{name without suffix: file} of a folder."""
        pictures: dict[str, str] = {}
        for file in self.archive.names(tuple(FORMATS)):
            if file.startswith(f"{folder}/"):
                name = str(PurePosixPath(file).relative_to(folder).with_suffix(""))
                if name in pictures:
                    raise ArchiveError(
                        file, f"has the same name as {pictures[name]}; remove one of them"
                    )
                pictures[name] = file
        return pictures


def _check_same_names(folders: Mapping[str, Mapping[str, str]]) -> None:
    for folder, pictures in folders.items():
        differ = sorted(set(pictures) ^ set(folders["RGB"]))
        if differ:
            where = "RGB" if differ[0] in pictures else folder
            raise ArchiveError(
                f"{where}/{differ[0]}",
                f"no such picture, but {folder} and RGB must have the same names; add it, or "
                "remove its counterpart",
            )


def _files(name: str, kind: str, folders: Mapping[str, Mapping[str, str]]) -> tuple[File, ...]:
    """The picture, its photograph, which must have the same size, and its label map."""
    files = [File("image", folders[kind][name])]
    if kind != "RGB":
        files.append(File("photograph", folders["RGB"][name]))
    if _LABEL in folders:
        files.append(File("segmentation", folders[_LABEL][name]))
    return tuple(files)


def _check(name: str, pixels: np.ndarray, channels: int, dtype: str) -> None:
    if len(pixels) != channels or pixels.dtype != dtype:
        raise ArchiveError(
            name,
            f"{len(pixels)} channels of {pixels.dtype}, expected {channels} of {dtype}; copy it "
            "again",
        )


def _size(pixels: np.ndarray) -> str:
    return "{} x {}".format(*pixels.shape[1:])


def _codes(name: str, picture: np.ndarray) -> np.ndarray:
    """The label map [h, w] in a picture [1, h, w]. JPEG would have altered its codes."""
    if len(picture) != 1 or not name.lower().endswith(".png"):
        raise ArchiveError(
            name,
            f"{len(picture)} channels, expected a PNG with one channel of class codes; write it as "
            "such",
        )
    return picture[0]
