"""DeCUR on radar and optical images of SSL4EO-S12 (arXiv 2309.05300).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s1 s2c
    python -m eo_jax.train --config=configs/decur_ssl4eo_s12.py:rn50 --workdir=runs/decur_s12

Data: 251,079 locations in four seasons, Sentinel-1 and Sentinel-2 L1C. Published figures: not
available to us.

Hyper-parameters are those of the released code. `rn50`: 100 epochs, batch 256, rate 0.05 for
weights and 0.0048 for biases and norms, weight decay 1e-6, a cosine without warm-up. (Another
version of its script says 200 epochs, batch 512, 0.2 and 1e-5; the published weights have 100
epochs.) `vit_s`, and `rda` (ResNet-50 with deformable attention after its last two stages): 200
epochs, batch 512, AdamW at 1e-4 with weight decay 0.01 on every weight. 7168 of 8192 dimensions are
common. Each view of each sensor draws its own season, so a pair may mix seasons.

Departures from the released code:

* Heads: one projector per sensor, as the paper draws it; theirs share one by mistake.
* Loss: the sum of its four terms, as in the paper; theirs gives the terms between sensors half the
  weight of those within and divides by 3. For biases and norms, whose rate LARS does not adapt,
  gradients are therefore three to six times larger here. Correlations are divided by the true batch
  size; theirs by that of four GPUs, whatever their number.
* Optimizer: `rn50` is trained by LARS, which they construct but never reach (`if 'vit' or ...` is
  always true), so that their AdamW runs at 0.05. `rda` and `vit_s` are trained by AdamW, as theirs.
* Initial weights: random instead of ImageNet's.
* Pixels: digital numbers, unchanged and normalised per band, instead of uint8, where brightness and
  contrast wrap around.
* Jitter: brightness is a factor on reflectance, so an offset of digital numbers, as in SSL4EO-S12
  v1.1, is not multiplied.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Solarise: none; with its threshold of 0.5 in 0 to 255 theirs changes only black pixels;
  "--config.augment.crops['global'].solarise_prob=0.2" inverts bright ones.
* Positions: fixed sine-cosine instead of learned ones.
* Epochs: every location once per epoch.
* Schedule: the cosine advances per step, not per epoch.
* Precision: bfloat16 instead of float16.
* Attention: in `rda` each sensor has its own; theirs sends both sensors through that of the first.
  Offsets are bounded; theirs are clipped to the image. Sampling points start at the centres of
  their cells, and there is no relative position bias
  (eo_jax/models/layers/deformable_attention.py). --config.model.trunk.attention=dat has these as
  theirs, which their weights need.

A batch of 256 reads all four seasons of its locations in both sensors, 2.4 GB. To read half of
that, with two different seasons of each sensor: --config.data.sources.s1.dates=2
--config.data.sources.l1c.dates=2, and dates=each for both crop sets.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("rn50", "rda", "vit_s", "smoke")
_LOCATIONS = 251_079


def get_config(arg: str = "rn50") -> ml_collections.ConfigDict:
    """`rn50`, `rda`, `vit_s`; `smoke` is a few steps of a tiny ViT."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/decur_ssl4eo_s12.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    epochs, batch = (100, 256) if arg == "rn50" else (200, 512)
    config = ml_collections.ConfigDict()
    s1 = {
        "store": "stores/s12",
        "sensor": "sentinel1_grd",
        "dates": 4,
    }
    l1c = {
        "store": "stores/s12",
        "sensor": "sentinel2_l1c",
        "dates": 4,
        "paired_with": "s1",
    }
    config.data = {
        "sources": {
            "s1": s1,
            "l1c": l1c,
        },
        "batch_size": batch,
        "crop": 264,
        "threads": 8,
    }
    radar = {
        "views": 2,
        "size": 224,
        "scale": (0.2, 1.0),
        "flips": "both",
        "dates": "random",
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
        "stems": {
            source: {
                "name": "patch_embed",
                "patch": 16,
            }
            for source in ("s1", "l1c")
        },
        "trunk": {
            "name": "vit",
            "size": "small",
        },
    }
    config.objective = {
        "name": "decur",
        "common": 7168,
        "off_diagonal": 0.0051,
        "projector": (8192, 8192, 8192),
    }
    config.optim = {
        "lr": 1e-4,
        "weight_decay": 0.01,
        "beta2": 0.999,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
    }
    if arg in ("rn50", "rda"):
        config.model = {
            "stems": {source: {"name": "conv"} for source in ("s1", "l1c")},
            "trunk": {
                "name": "resnet",
                "depth": 50,
            },
        }
    if arg == "rda":
        config.model.trunk.attention = "deformable"
    if arg == "rn50":
        config.optim = {
            "name": "lars",
            "lr": 0.05,
            "weight_decay": 1e-6,
            "clip_norm": 0.0,
        }
        config.optim.lr_rules = (("(bias|scale)$", 0.0048 / 0.05), (".*", 1.0))
    config.run = {
        "steps": epochs * _LOCATIONS // batch,
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
        config.model.trunk = {
            "name": "vit",
            "size": "tiny",
            "depth": 1,
        }
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
