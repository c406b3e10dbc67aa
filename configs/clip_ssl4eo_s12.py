"""Cross-sensor contrast as in CLIP on SSL4EO-S12, the baseline of DeCUR (arXiv 2309.05300).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s1 s2c
    python -m eo_jax.train --config=configs/clip_ssl4eo_s12.py:rn50 --workdir=runs/clip_s12

Data: 251,079 locations, Sentinel-1 and Sentinel-2 L1C. Published figures: not available to us.

Hyper-parameters are those of the released script: 100 epochs, batch 256, rate 0.2 for weights and
0.0048 for biases and norms, weight decay 1e-6, a cosine without warm-up, projectors of 512 and 128,
temperature 1. (Embeddings of unit length hardly differ at that temperature; CLIP itself starts at
0.07: --config.objective.temperature=0.07.) Views are those of DeCUR, one per sensor, each from its
own season. The released code cannot run as published: imports are missing.

Departures from the released code:

* Loss: the contrast runs in both directions, radar to optical and back; theirs only in the first.
* Heads: no BatchNorm after the last layer of the projectors.
* Optimizer: LARS, which they construct but never reach, instead of AdamW at 0.2.
* Pixels: digital numbers, unchanged and normalised per band, instead of uint8.
* Jitter: brightness is a factor on reflectance, so an offset of digital numbers, as in SSL4EO-S12
  v1.1, is not multiplied.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Solarise: none; in their code it changes only black pixels.
* Initial weights: no zero initialisation of residual branches.
* Epochs: every location once per epoch.
* Schedule: the cosine advances per step, not per epoch.
* Precision: bfloat16 instead of float16.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("rn50", "smoke")
_BATCH = 256
_STEPS = 100 * 251_079 // _BATCH


def get_config(arg: str = "rn50") -> ml_collections.ConfigDict:
    """`rn50`; `smoke` is a few steps of a tiny ViT."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/clip_ssl4eo_s12.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    s1 = {
        "store": "stores/s12",
        "sensor": "sentinel1_grd",
    }
    l1c = {
        "store": "stores/s12",
        "sensor": "sentinel2_l1c",
        "paired_with": "s1",
    }
    config.data = {
        "sources": {
            "s1": s1,
            "l1c": l1c,
        },
        "batch_size": _BATCH,
        "crop": 264,
        "threads": 8,
    }
    radar = {
        "views": 1,
        "size": 224,
        "scale": (0.2, 1.0),
        "flips": "both",
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,
    }
    optical = radar | {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.8,
    }
    config.augment = {
        "crops": {
            "global": optical,
            "s1/global": radar,
        },
        "statistics": "published",
    }
    config.model = {
        "stems": {source: {"name": "conv"} for source in ("s1", "l1c")},
        "trunk": {
            "name": "resnet",
            "depth": 50,
        },
    }
    config.objective = {
        "name": "clip",
        "temperature": 1.0,
        "projector": (512, 128),
    }
    config.optim = {
        "name": "lars",
        "lr": 0.2,
        "weight_decay": 1e-6,
        "clip_norm": 0.0,
        "lr_rules": (("(bias|scale)$", 0.0048 / 0.2), (".*", 1.0)),
    }
    config.run = {
        "steps": _STEPS,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {
        "collapse": {
            "every": 10_000,
            "sources": ("s1", "l1c"),
        }
    }
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = config.augment.crops["s1/global"].size = 64
        config.model = {
            "stems": {
                source: {
                    "name": "patch_embed",
                    "patch": 16,
                }
                for source in ("s1", "l1c")
            }
        }
        config.model.trunk = {
            "name": "vit",
            "size": "tiny",
            "depth": 1,
        }
        config.objective.projector = (64, 32)
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
