"""DINO on SSL4EO-S12 with ResNet-50 and ViT-S/16 (arXiv 2211.07044).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s2c
    python -m eo_jax.train --config=configs/dino_ssl4eo_s12.py:vit_s --workdir=runs/s12_dino \\
        --config.data.sources.l1c.store=stores/s12

Data: 251,079 locations in four seasons, Sentinel-2 L1C.

Published figures, fine-tuned, BigEarthNet mAP / EuroSAT % / So2Sat %: ResNet-50 90.7 / 99.1 / 63.6,
ViT-S/16 90.5 / 99.0 / 62.2.

Hyper-parameters are those of the released scripts: 100 epochs, batch 256, 10 epochs of warm-up, a
cosine per step to 1e-6, teacher momentum from 0.996 to 1, 65,536 prototypes that are frozen for one
epoch, the gradient of each weight clipped at norm 3, two global and eight local crops. ResNet-50:
SGD at 0.03, weight decay 1e-4. ViT-S/16: AdamW at 1.5e-4 (PyTorch's betas), weight decay from 0.04
to 0.4. Each global crop has its own season; all local crops share a third.

Departures from the released code:

* Pixels: digital numbers, unchanged and normalised per band, instead of reflectance in uint8, where
  values above 1 wrap around and brightness and contrast wrap around again.
* Jitter: brightness is a factor on reflectance, so an offset of digital numbers, as in SSL4EO-S12
  v1.1, is not multiplied.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Solarise: inverts values above reflectance 0.5, as its name says; the released code inverts darker
  ones.
* Epochs: every location once per epoch; the released code draws with replacement.
* Positions: in `vit_s`, fixed sine-cosine, counted from the corner of each crop, instead of learned
  ones that are interpolated for local crops.
* Initial weights: in `vit_s`, Xavier-uniform instead of truncated normal.
* Precision: bfloat16 instead of float16.

A batch reads all four seasons of its locations, 1.9 GB, since crops may show the same season or
three different ones.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("vit_s", "rn50", "smoke")
_BATCH = 256
_STEPS = 100 * 251_079 // _BATCH


def get_config(arg: str = "vit_s") -> ml_collections.ConfigDict:
    """`vit_s`, `rn50`; `smoke` is a few steps of a tiny ViT."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/dino_ssl4eo_s12.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/s12",
        "sensor": "sentinel2_l1c",
        "dates": 4,
    }
    config.data = {
        "sources": {"l1c": source},
        "batch_size": _BATCH,
        "crop": 264,
        "threads": 8,
    }
    border = 0.14 if arg == "rn50" else 0.4
    shared = {
        "interpolation": "bicubic",
        "flips": "left_right",
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.8,
        "grayscale_prob": 0.2,
    }
    large = {
        "views": 2,
        "size": 224,
        "scale": (border, 1.0),
        "dates": "random",
        "blur_prob": (1.0, 0.1),
        "solarise_prob": (0.0, 0.2),
        **shared,
    }
    small = {
        "views": 8,
        "size": 96,
        "scale": (0.05, border),
        "dates": "shared",
        "blur_prob": 0.5,
        **shared,
    }
    config.augment = {
        "crops": {
            "global": large,
            "local": small,
        },
        "statistics": "published",
    }
    config.model = {
        "stems": {
            "l1c": {
                "name": "patch_embed",
                "patch": 16,
            }
        },
        "trunk": {
            "name": "vit",
            "size": "small",
            "drop_path": 0.1,
        },
    }
    config.objective = {
        "name": "dino",
        "prototypes": 65_536,
        "hidden": 2048,
        "bottleneck": 256,
        "momentum": 0.996,
    }
    config.optim = {
        "lr": 1.5e-4,
        "end_lr": 1e-6,
        "warmup_steps": _STEPS // 10,
        "beta2": 0.999,
        "weight_decay": 0.04,
        "end_weight_decay": 0.4,
        "clip_norm": 3.0,
        "clip_scope": "weight",
        "freeze_rules": (("last_layer", (0.0, 0.01)),),
    }
    config.run = {
        "steps": _STEPS,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if arg == "rn50":
        config.model = {
            "stems": {"l1c": {"name": "conv"}},
            "trunk": {
                "name": "resnet",
                "depth": 50,
            },
        }
        config.optim.update(
            {
                "name": "sgd",
                "lr": 0.03,
                "weight_decay": 1e-4,
                "end_weight_decay": 1e-4,
            }
        )
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size, config.augment.crops.local.size = 64, 32
        config.model.trunk = {
            "name": "vit",
            "size": "tiny",
            "depth": 1,
        }
        config.objective.prototypes, config.objective.hidden = 256, 64
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
