"""data2vec on SSL4EO-S12 with ViT-S/16 (arXiv 2211.07044).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s2c
    python -m eo_jax.train --config=configs/data2vec_ssl4eo_s12.py:vit_s \\
        --workdir=runs/s12_data2vec --config.data.sources.l1c.store=stores/s12

Data: 251,079 locations in four seasons, Sentinel-2 L1C. The encoder is exported in the layouts
`beit`, `timm_beit` and `hf_data2vec`, which have relative positions and layer scales.

Published figures, fine-tuned: BigEarthNet 90.3 mAP, EuroSAT 99.1 %, So2Sat 64.8 %.

The hyper-parameters of the published weights are not known. These are those of the released script,
which as published only runs two epochs as a test: batch 256, AdamW at 1e-3 (PyTorch's betas) with
weight decay 0.05, but none on the class token, one epoch of warm-up, a cosine to 1e-5, gradients
clipped at norm 3, 120 of 196 tokens masked in blocks, targets from the last six blocks, drop path
0.25, layer scale, relative positions shared by all blocks, BEiT's initial weights, one season per
step. The teacher's momentum is 0.9998 throughout,
because the script's rise from 0.999 ends at step 0. Training runs for 100 epochs, as the name of
the published weights says.

Departures from the released code:

* Pooling: the mean of the tokens, instead of the class token, which no loss trains.
* Pixels: digital numbers, unchanged and normalised per band, instead of reflectance in uint8, where
  values above 1 wrap around.
* Epochs: every location once per epoch; the released code draws with replacement.
* Dropout: none in attention (theirs: 0.05).
* Precision: bfloat16 on accelerators.
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
            f"configs/data2vec_ssl4eo_s12.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/s12",
        "sensor": "sentinel2_l1c",
    }
    config.data = {
        "sources": {"l1c": source},
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
    trunk = {
        "name": "vit",
        "size": "small",
        "pool": "mean",
        "layer_scale": 1e-4,
        "drop_path": 0.25,
        "positions": "relative",
        "grid": 14,
    }
    config.model = {
        "stems": {
            "l1c": {
                "name": "patch_embed",
                "patch": 16,
            }
        },
        "trunk": trunk,
        "init": "beit",
    }
    config.objective = {
        "name": "data2vec",
        "mask_ratio": 120 / 196,
        "average_top_k_layers": 6,
        "beta": 2.0,
        "momentum": 0.9998,
        "end_momentum": 0.9998,
    }
    config.optim = {
        "lr": 1e-3,
        "end_lr": 1e-5,
        "warmup_steps": _STEPS // 100,
        "weight_decay": 0.05,
        "beta2": 0.999,
        "clip_norm": 3.0,
        "decay_rules": (("(cls_token|bias|scale)$", 0.0), (".*", 1.0)),
    }
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
            **trunk,
            "size": "tiny",
            "depth": 1,
            "grid": 4,
        }
        config.objective.average_top_k_layers = 1
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
