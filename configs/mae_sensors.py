"""MAE with one ViT for two sensors, trained alternately: one stem per sensor, one shared trunk.

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s2c s1
    python -m eo_jax.train --config=configs/mae_sensors.py:vit_b --workdir=runs/sensors_mae \\
        --config.data.sources.l1c.store=stores/s12 --config.data.sources.s1.store=stores/s12

Data: Sentinel-2 and Sentinel-1 of SSL4EO-S12.

Published figures: none for exactly this. Compare models with one trunk for many sensors, such as
OFA-Net (arXiv 2401.07527), and `mae_ssl4eo_s12.py`, which trains one model per sensor with the same
settings.

A step shows one sensor, Sentinel-2 twice as often as Sentinel-1 (`data.mixture`; the log says how
often each was drawn). The sensors need not show the same locations. Each sensor has its own stem
and pixel predictor; everything else is shared, including running statistics. `python -m
eo_jax.export --encoder=s1` writes the encoder of one sensor. The number of steps is that of a
hundred epochs over both sensors: 133 of Sentinel-2, 67 of Sentinel-1.
"""

import ml_collections

from eo_jax.config import complete

_SIZES = {
    "vit_s": "small",
    "vit_b": "base",
    "vit_l": "large",
}
VARIANTS = (*_SIZES, "smoke")
_BATCH = 256
_LOCATIONS = 251_079


def get_config(arg: str = "vit_s") -> ml_collections.ConfigDict:
    """`vit_s` to `vit_l`; `smoke` is a few steps of a tiny model."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/mae_sensors.py: no variant {arg!r}; there are {'; '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    sources = {
        "l1c": {
            "store": "stores/s12",
            "sensor": "sentinel2_l1c",
        },
        "s1": {
            "store": "stores/s12",
            "sensor": "sentinel1_grd",
        },
    }
    components = {
        "optical": {
            "sources": ("l1c",),
            "weight": 2.0,
        },
        "radar": {
            "sources": ("s1",),
            "weight": 1.0,
        },
    }
    config.data = {
        "sources": sources,
        "mixture": components,
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
    stem = {
        "name": "patch_embed",
        "patch": 16,
    }
    config.model = {
        "stems": {
            "l1c": stem,
            "s1": stem,
        },
        "trunk": {
            "name": "vit",
            "size": _SIZES.get(arg, "tiny"),
            "pool": "mean",
        },
        "trunk_sharing": "all",
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
        "warmup_steps": 20 * _LOCATIONS // _BATCH,
        "weight_decay": 0.05,
        "beta2": 0.95,
        "clip_norm": 0.0,
    }
    config.run = {
        "steps": 200 * _LOCATIONS // _BATCH,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {
        "collapse": {
            "every": 10_000,
            "sources": ("l1c", "s1"),
        }
    }
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = 64
        config.model.trunk.depth = 1
        config.objective.decoder_width, config.objective.decoder_depth = 64, 1
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 6,
            "log_every": 1,
            "save_every": 3,
        }
    return complete(config)
