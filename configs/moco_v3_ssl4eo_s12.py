"""MoCo-v3 on SSL4EO-S12 with ViT-S/16 (arXiv 2211.07044).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s2c
    python -m eo_jax.train --config=configs/moco_v3_ssl4eo_s12.py:vit_s \\
        --workdir=runs/s12_moco_v3 --config.data.sources.l1c.store=stores/s12

Data: 251,079 locations in four seasons, Sentinel-2 L1C.

Published figures, fine-tuned: BigEarthNet 89.9 mAP, EuroSAT 98.6 %, So2Sat 61.6 %; on the official
test set of BigEarthNet 89.3 mAP and 80.5 F1.

Hyper-parameters are those of the released script: 100 epochs, batch 256, AdamW at 1.5e-4 (not
scaled by the batch: that line is commented out) with PyTorch's betas and weight decay 0.1 on every
weight, 10 epochs of warm-up, a cosine per step, teacher momentum from 0.99 to 1, a patch embedding
that is never trained, fixed sine-cosine positions in MoCo-v3's order, the row before the column.

Another version of the released script means to drop 1 to 6 bands of a view with probability 0.5
("--config.augment.crops['global'].band_drop_prob=0.5") but drops as many rows of pixels; which
version made the published weights is not known.

Departures from the released code:

* Pixels: digital numbers, unchanged and normalised per band, instead of reflectance in uint8, where
  values above 1 wrap around and brightness and contrast wrap around again.
* Jitter: brightness is a factor on reflectance, so an offset of digital numbers, as in SSL4EO-S12
  v1.1, is not multiplied.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Epochs: every location once per epoch; the released code draws with replacement.
* Initial weights: those of q, k and v are drawn as one matrix. The patch embedding, which is never
  trained, is drawn from the range for 13 bands instead of 3, half as wide (0.040, theirs 0.072),
  and the class token with a standard deviation of 0.02 instead of 1e-6.
* Precision: bfloat16 on accelerators.

A batch reads all four seasons of its locations, 1.9 GB, since both views may show the same one. To
read half of that and show two different seasons: --config.data.sources.l1c.dates=2
"--config.augment.crops['global'].dates=each".
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("vit_s", "smoke")
_BATCH = 256
_STEPS = 100 * 251_079 // _BATCH


def get_config(arg: str = "vit_s") -> ml_collections.ConfigDict:
    """`vit_s`; `smoke` is a few steps of a tiny model."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/moco_v3_ssl4eo_s12.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
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
    crops = {
        "views": 2,
        "size": 224,
        "scale": (0.08, 1.0),
        "flips": "left_right",
        "dates": "random",
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "blur_prob": (1.0, 0.1),
    }
    config.augment = {
        "crops": {"global": crops},
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
            "positions": "sincos_moco_v3",
        },
    }
    config.objective = {
        "name": "moco_v3",
        "temperature": 0.2,
        "momentum": 0.99,
        "projector": (4096, 4096, 256),
        "predictor": (4096, 256),
    }
    config.optim = {
        "lr": 1.5e-4,
        "warmup_steps": _STEPS // 10,
        "weight_decay": 0.1,
        "beta2": 0.999,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
    }
    config.optim.freeze_rules = (("stem/embed", (0.0, 1.0)),)
    config.run = {
        "steps": _STEPS,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = 64
        config.model.trunk = {
            "name": "vit",
            "size": "tiny",
            "depth": 1,
            "positions": "sincos_moco_v3",
        }
        config.objective.projector, config.objective.predictor = (64, 64, 32), (64, 32)
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
