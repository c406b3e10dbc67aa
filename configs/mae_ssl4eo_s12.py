"""MAE on SSL4EO-S12 with ViTs (arXiv 2211.07044).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s2c s1
    python -m eo_jax.train --config=configs/mae_ssl4eo_s12.py:vit_s --workdir=runs/s12_mae \\
        --config.data.sources.l1c.store=stores/s12

Data: 251,079 locations in four seasons, Sentinel-2 L1C and Sentinel-1.

Published figures of ViT-S/16 on L1C, fine-tuned: BigEarthNet 88.9 mAP, EuroSAT 98.7 %, So2Sat 63.9
%. For other sizes and Sentinel-1: not available to us.

Hyper-parameters are those of the released script for ViT-S/16 on L1C: batch 256, AdamW (0.9, 0.95)
at 1.5e-4 with weight decay 0.05, 10 epochs of warm-up, a cosine per step, 70 % of the tokens
masked, norm_pix_loss, a decoder of eight blocks, one season per step. The epochs are those in the
names of the published weights: 100, and 200 for ViT-H/14 (the released script of ViT-S/16 itself
says 200). How else the larger sizes and Sentinel-1 were trained is not known; they use the same
here.

Departures from the released code:

* Pooling: the mean of the tokens, instead of the class token, which no loss trains.
* Pixels: digital numbers, unchanged and normalised per band, instead of uint8 (reflectance up to 1,
  above which values wrap around; decibels within two standard deviations of the mean).
* Epochs: every location once per epoch; the released code draws with replacement.
* Precision: bfloat16 on accelerators.
"""

import ml_collections

from eo_jax.config import complete

_SIZES = {
    "vit_s": "small",
    "vit_b": "base",
    "vit_l": "large",
    "vit_h": "huge",
}
_SENSORS = {
    "l1c": "sentinel2_l1c",
    "s1": "sentinel1_grd",
}
VARIANTS = (*_SIZES, *(f"{size},s1" for size in _SIZES), "smoke")
_BATCH = 256
_LOCATIONS = 251_079


def get_config(arg: str = "vit_s") -> ml_collections.ConfigDict:
    """`vit_s` to `vit_h` on L1C, `vit_s,s1` to `vit_h,s1` on Sentinel-1; `smoke` is a few steps of
    a tiny model.
    """
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/mae_ssl4eo_s12.py: no variant {arg!r}; there are {'; '.join(VARIANTS)}"
        )
    size, _, product = arg.partition(",")
    product = product or "l1c"
    patch, epochs = (14, 200) if size == "vit_h" else (16, 100)
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/s12",
        "sensor": _SENSORS[product],
    }
    config.data = {
        "sources": {product: source},
        "batch_size": _BATCH,
        "crop": 264,
        "threads": 16,
        "prefetch": 4,
    }
    config.augment = {
        "crops": {
            "global": {
                "size": 224,
                "scale": (0.2, 1.0),
                "flips": "left_right",
            }
        },
        "statistics": "published",
    }
    config.model = {
        "stems": {
            product: {
                "name": "patch_embed",
                "patch": patch,
            }
        },
        "trunk": {
            "name": "vit",
            "size": _SIZES.get(size, "tiny"),
            "pool": "mean",
        },
    }
    config.objective = {
        "name": "mae",
        "mask_ratio": 0.7,
        "norm_pix_loss": True,
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
    }
    config.optim = {
        "lr": 1.5e-4,
        "warmup_steps": 10 * _LOCATIONS // _BATCH,
        "weight_decay": 0.05,
        "beta2": 0.95,
        "clip_norm": 0.0,
    }
    config.run = {
        "steps": epochs * _LOCATIONS // _BATCH,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if size == "vit_h":
        config.model.trunk.remat = "block"
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = 64
        config.model.trunk.depth = 1
        config.objective.decoder_width, config.objective.decoder_depth = 64, 1
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
