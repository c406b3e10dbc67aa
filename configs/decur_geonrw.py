"""DeCUR on aerial photographs and elevation of GeoNRW (arXiv 2309.05300).

    python -m data_prep convert geonrw --input /data/geonrw --output stores/geonrw \\
        --val 'duesseldorf/*' --val 'herne/*' --val 'neuss/*'
    python -m eo_jax.train --config=configs/decur_geonrw.py:rn50 --workdir=runs/decur_geonrw

Data: 7,298 tiles of 40 cities, cut into 116,768 patches of 250 px, 1 m. Published figures: not
available to us.

Hyper-parameters are those of the released scripts: 100 epochs, batch 256, a cosine without warm-up;
6144 of 8192 dimensions are common. `rn50`: rate 0.2 for weights and 0.0048 for biases and norms,
weight decay 1e-6. `rda` (ResNet-50 with deformable attention after its last two stages): AdamW at
1e-4 with weight decay 0.01 on every weight. The three cities that torchgeo tests on are held out;
which tiles the released code left out of its training folder is not known.

Departures from the released code:

* Heads: one projector per sensor; theirs share one by mistake.
* Loss: the sum of its four terms; theirs gives the terms between sensors half the weight of those
  within and divides by 3. For biases and norms, whose rate LARS does not adapt, gradients are
  therefore three to six times larger here. Correlations are divided by the true batch size.
* Optimizer: `rn50` is trained by LARS, which they construct but never reach, instead of AdamW at
  0.2; `rda` by AdamW, as theirs.
* Initial weights: random instead of ImageNet's.
* Pixels: elevation is normalised over the whole store; theirs is stretched per patch between its
  own 1st and 99th percentile, which keeps relief and loses height. Photographs are augmented in
  float; in uint8 brightness and contrast wrap around.
* Bands: red, green, blue; theirs are reversed.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Solarise: none; in their code it changes only black pixels.
* Attention: in `rda`, as in decur_ssl4eo_s12.py.
* Schedule: the cosine advances per step, not per epoch.
* Precision: bfloat16 instead of float16.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("rn50", "rda", "smoke")
_BATCH = 256
_STEPS = 100 * 7_298 * 16 // _BATCH


def get_config(arg: str = "rn50") -> ml_collections.ConfigDict:
    """`rn50`, `rda` (ResNet-50 with deformable attention); `smoke` is a few steps of ResNet-18."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/decur_geonrw.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    rgb = {
        "store": "stores/geonrw",
        "sensor": "geonrw_rgb",
    }
    dem = {
        "store": "stores/geonrw",
        "sensor": "geonrw_dem",
        "paired_with": "rgb",
    }
    config.data = {
        "sources": {
            "rgb": rgb,
            "dem": dem,
        },
        "batch_size": _BATCH,
        "crop": 250,
        "threads": 8,
    }
    elevation = {
        "views": 2,
        "size": 224,
        "scale": (0.2, 1.0),
        "flips": "both",
    }
    colour = elevation | {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,
    }
    config.augment = {
        "crops": {
            "global": colour,
            "dem/global": elevation,
        },
        "statistics": "store",
    }
    config.model = {
        "stems": {source: {"name": "conv"} for source in ("rgb", "dem")},
        "trunk": {
            "name": "resnet",
            "depth": 50,
        },
    }
    config.objective = {
        "name": "decur",
        "common": 6144,
        "off_diagonal": 0.0051,
        "projector": (8192, 8192, 8192),
    }
    config.optim = {
        "name": "lars",
        "lr": 0.2,
        "weight_decay": 1e-6,
        "clip_norm": 0.0,
        "lr_rules": (("(bias|scale)$", 0.0048 / 0.2), (".*", 1.0)),
    }
    if arg == "rda":
        config.model.trunk.attention = "deformable"
        config.optim = {
            "lr": 1e-4,
            "weight_decay": 0.01,
            "beta2": 0.999,
            "clip_norm": 0.0,
            "decay_rules": ((".*", 1.0),),
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
            "sources": ("rgb", "dem"),
        }
    }
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = config.augment.crops["dem/global"].size = 64
        config.model.trunk.depth = 18
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
