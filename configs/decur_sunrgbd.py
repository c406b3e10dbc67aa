"""DeCUR on photographs and depth of SUN RGB-D (arXiv 2309.05300).

    python -m data_prep convert sunrgbd --input /data/sun_rgbd --output stores/sunrgbd
    python -m eo_jax.train --config=configs/decur_sunrgbd.py:mit_b5 --workdir=runs/decur_sunrgbd

Data: 10,335 indoor pictures with depth, coded as HHA; for raw depth instead,
--config.data.sources.depth.sensor=sunrgbd_depth. Published figures: not available to us.

Hyper-parameters are those of the released script for MiT-B5: 200 epochs over all pictures, batch
128, AdamW at 1e-4 with weight decay 1e-4 (the script's default) on every weight, a cosine without
warm-up; 6144 of 8192 dimensions are common. For MiT-B2, whose weights are also published, a file
name in that script says batch 16, 64 on four GPUs; the rest is not known and the same here. Drop
path 0.1 is SegFormer's.

Departures from the released code:

* Heads: one projector per sensor, on MiT's 512 features; theirs share one by mistake, behind a
  linear layer to 2048.
* Loss: the sum of its four terms; theirs gives the terms between sensors half the weight of those
  within. Correlations are divided by the true batch size.
* Optimizer: all weights learn at 1e-4; the script leaves biases and norms at the default of 0.0048.
* Crops: views are cut from a random window of 416 px, which fits into the smallest pictures known
  to us (427 rows), instead of from the whole picture.
* Pixels: statistics of the store instead of ImageNet's.
* Bands: red, green, blue; theirs are reversed.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Schedule: the cosine advances per step, not per epoch.
* Precision: bfloat16 instead of float16.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("mit_b5", "mit_b2", "smoke")
_LOCATIONS = 10_335


def get_config(arg: str = "mit_b5") -> ml_collections.ConfigDict:
    """`mit_b5`, `mit_b2`; `smoke` is a few steps of MiT-B0."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/decur_sunrgbd.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    batch = 64 if arg == "mit_b2" else 128
    config = ml_collections.ConfigDict()
    rgb = {
        "store": "stores/sunrgbd",
        "sensor": "sunrgbd_rgb",
        "split": "all",
    }
    depth = {
        "store": "stores/sunrgbd",
        "sensor": "sunrgbd_hha",
        "split": "all",
        "paired_with": "rgb",
    }
    config.data = {
        "sources": {
            "rgb": rgb,
            "depth": depth,
        },
        "batch_size": batch,
        "crop": 416,
        "threads": 8,
    }
    hha = {
        "views": 2,
        "size": 224,
        "scale": (0.5, 1.0),
        "flips": "left_right",
    }
    colour = hha | {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,
    }
    config.augment = {
        "crops": {
            "global": colour,
            "depth/global": hha,
        },
        "statistics": "store",
    }
    config.model = {
        "stems": {
            source: {
                "name": "overlap_patch_embed",
                "width": 64,
            }
            for source in ("rgb", "depth")
        }
    }
    config.model.trunk = {
        "name": "mit",
        "size": "b2" if arg == "mit_b2" else "b5",
        "drop_path": 0.1,
    }
    config.objective = {
        "name": "decur",
        "common": 6144,
        "off_diagonal": 0.0051,
        "projector": (8192, 8192, 8192),
    }
    config.optim = {
        "lr": 1e-4,
        "weight_decay": 1e-4,
        "beta2": 0.999,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
    }
    config.run = {
        "steps": 200 * _LOCATIONS // batch,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {
        "collapse": {
            "every": 2000,
            "split": "all",
            "sources": ("rgb", "depth"),
        }
    }
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = config.augment.crops["depth/global"].size = 64
        config.model.stems = {
            source: {
                "name": "overlap_patch_embed",
                "width": 32,
            }
            for source in ("rgb", "depth")
        }
        config.model.trunk.size = "b0"
        config.objective.update(
            {
                "common": 48,
                "projector": (64, 64),
            }
        )
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
