"""Converts the four small labelled scenes of the sample data for `eo_jax.evaluate few-label`.

    python -m benchmarks.few_label_scenes --output stores

EO_JAX_SAMPLE_DATA names the folder of the sample data. Its labels of Pavia and Berlin are in NumPy
archives, which the reader of scenes does not take; they are written as .mat files on the way.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io


class Scene(NamedTuple):
    """A scene of the sample data, by paths in its folder `hyperspectral`.

    Attributes:
        image: file of the scene.
        labels: file of its classes.
        variable: name of the classes in a NumPy archive; "" for a file that the reader takes.
        options: further arguments of the conversion.
    """

    image: str
    labels: str
    variable: str = ""
    options: tuple[str, ...] = ()


_BERLIN = "berlin_urban_gradient"
SCENES = {
    "pavia": Scene(
        "pavia_university/reg_pavia_dataset.mat",
        "pavia_university/reg_pavia_labels_derived.npz",
        "labels",
        ("--variable", "I1"),
    ),
    "hymap": Scene(
        f"{_BERLIN}/HyMap02_Berlin_Urban_Gradient_2009.hdr",
        f"{_BERLIN}/berlin_labels_derived.npz",
        "hymap02_labels",
    ),
    "salinas_a": Scene(
        "salinas_a/SalinasA_corrected.mat",
        "salinas_a/SalinasA_gt.mat",
        options=("--sensor", "aviris_salinas"),
    ),
    "enmap": Scene(
        f"{_BERLIN}/EnMAP_BerlinUrbanGradient.hdr",
        f"{_BERLIN}/berlin_labels_derived.npz",
        "enmap_sim_level2_labels",
    ),
}


def main() -> int:
    """Converts them all."""
    parser = argparse.ArgumentParser("python -m benchmarks.few_label_scenes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    data = Path(os.environ["EO_JAX_SAMPLE_DATA"]) / "hyperspectral"
    for name, scene in SCENES.items():
        convert(scene, data, arguments.output / name)
    return 0


def convert(scene: Scene, data: Path, output: Path) -> None:
    """Converts a scene from folder `data`. Raises CalledProcessError."""
    image, labels = data / scene.image, data / scene.labels
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in image.parent.iterdir():
            (root / path.name).symlink_to(path)
        if scene.variable:
            with np.load(labels, allow_pickle=False) as arrays:
                found = arrays[scene.variable]
            scipy.io.savemat(root / "labels.mat", {"labels": found.astype(np.uint8)})
            labels = root / "labels.mat"
        command = [sys.executable, "-m", "data_prep", "convert", "hsi-scene", "--input", folder]
        command += ["--output", str(output), "--image", image.name, "--ground-truth", labels.name]
        subprocess.run([*command, *scene.options, "--follow-links"], check=True)


if __name__ == "__main__":
    sys.exit(main())
