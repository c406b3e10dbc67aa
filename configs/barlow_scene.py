"""Barlow Twins on the pixels of any hyperspectral scene, as the few-label benchmark pretrains.

    python -m data_prep convert hsi-scene --input /data/salinas_a --output stores/salinas_a \\
        --sensor aviris_salinas --image SalinasA_corrected.mat --ground-truth SalinasA_gt.mat
    python -m eo_jax.train --config=configs/barlow_scene.py --workdir=runs/barlow_scene

For another scene, add its store and the row of its sensor, which its manifest has:
--config.data.sources.pixels.store=stores/hymap --config.data.sources.pixels.sensor=HyMap02...

`python -m eo_jax.evaluate few-label --store ...` runs this by itself. It was tuned on two small
scenes, see docs/few-label.md. It differs from configs/barlow_pixels.py, which follows a paper, in
what made a difference there:

The two views are neighbours of a pixel, drawn from the 5 x 5 pixels around it, each up to a tenth
brighter or darker. There is no noise, no band is left out, and everything is computed in float32:
bands are nearly copies of each other, and classes differ by less than such noise. The encoder is
three dense layers on the spectrum, and AdamW trains it for 600 steps of 512 pixels; on two cores
that takes a minute or two.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("scene", "smoke")


def get_config(arg: str = "scene") -> ml_collections.ConfigDict:
    """`scene`; `smoke` is a few steps of a small network."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/barlow_scene.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/salinas_a",
        "sensor": "aviris_salinas",
        "split": "all",
        "draw": "pixel",
        "cache": "memory",
    }
    config.data = {
        "sources": {"pixels": source},
        "batch_size": 512,
        "crop": 5,
    }
    crops = {
        "views": 2,
        "size": 1,
        "scale": (0.04, 0.04),  # one pixel of the 5 x 5
        "ratio": (1.0, 1.0),
        "flips": "none",
        "brightness": (0.9, 1.1),
    }
    config.augment = {
        "crops": {"global": crops},
        "statistics": "store",
    }
    config.model = {
        "stems": {"pixels": {"name": "identity"}},
        "trunk": {"name": "spectral_mlp"},
        "dtype": "float32",  # bfloat16 would round away what tells classes apart
    }
    config.objective = {
        "name": "barlow_twins",
        "projector": (256, 256),
    }
    config.optim = {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 1e-4,
    }
    config.sharding = {"rules": ((".*", ()),)}  # a small network: copied, not split
    config.run = {
        "steps": 600,
        "log_every": 100,
        "save_every": 600,
    }
    config.evals = {"collapse": {}}
    if arg == "smoke":
        config.data.batch_size = 16
        config.model.trunk.update({"width": 16, "hidden": 16})
        config.objective.projector = (32, 32)
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
