"""MAE on SpectralEarth (arXiv 2408.08447; 538,974 EnMAP patches of 128 px, 202 bands).

    python -m data_prep convert spectral-earth --input /data/spectral_earth --output stores/se
    python -m eo_jax.train --config=configs/mae_spectral_earth.py:vit_s --workdir=runs/se \\
        --config.data.sources.enmap.store=stores/se

Published figures: not available to us.

Hyper-parameters are those of the released configs for ViT-S: 200 epochs of 415,153 locations, batch
256, AdamW (0.9, 0.999) at 1e-4 with weight decay 0.01 on every weight, a cosine without warm-up, 90
% of the tokens of 4 px masked, norm_pix_loss, a decoder of one block. Crops are kornia's, with
aligned corners. How the published weights of the larger sizes were trained is not known; they use
the same here.

Departures from the released code:

* Pooling: the mean of the tokens, instead of the class token, which no loss trains.
* Adapter: it runs on visible tokens only, so that BatchNorm statistics come from visible pixels;
  theirs runs on all pixels.
* Schedule: the cosine advances per step, not per epoch.
* Precision: bfloat16 instead of float16.
* No-data: takes no part in loss and statistics.
"""

import ml_collections

from eo_jax.config import complete

_SIZES = {
    "vit_s": "small",
    "vit_b": "base",
    "vit_l": "large",
    "vit_h": "huge",
    "vit_g": "giant",
}
VARIANTS = (*_SIZES, "smoke")
_BATCH = 256
_STEPS = 200 * 415_153 // _BATCH


def get_config(arg: str = "vit_s") -> ml_collections.ConfigDict:
    """`vit_s` to `vit_g`; `smoke` is a few steps of a tiny model."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/mae_spectral_earth.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    config.data = {
        "sources": {
            "enmap": {
                "store": "stores/se",
                "sensor": "enmap",
            }
        },
        "batch_size": _BATCH,
        "crop": 128,
        "threads": 16,
        "prefetch": 4,
    }
    config.augment = {
        "crops": {
            "global": {
                "size": 128,
                "scale": (0.4, 1.0),
                "interpolation": "bilinear_corners",
                "flips": "both",
            }
        },
        "statistics": "published",
    }
    config.model = {
        "stems": {
            "enmap": {
                "name": "spectral_adapter",
                "patch": 4,
            }
        },
        "trunk": {
            "name": "vit",
            "size": _SIZES.get(arg, "tiny"),
            "pool": "mean",
        },
    }
    config.objective = {
        "name": "mae",
        "mask_ratio": 0.9,
        "norm_pix_loss": True,
        "decoder_width": 512,
        "decoder_depth": 1,
        "decoder_heads": 16,
    }
    config.optim = {
        "lr": 1e-4,
        "weight_decay": 0.01,
        "beta2": 0.999,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
    }
    config.run = {
        "steps": _STEPS,
        "seed": 12345,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if arg in ("vit_h", "vit_g"):
        config.model.trunk.remat = "block"
    if arg == "smoke":
        config.data.batch_size = 8
        config.data.crop = config.augment.crops["global"].size = 32
        config.model.trunk.depth = 1
        config.objective.decoder_width = 64
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
