"""DINO on SpectralEarth with SpecResNet-50 and SpecViT-S (arXiv 2408.08447).

    python -m data_prep convert spectral-earth --input /data/spectral_earth --output stores/se
    python -m eo_jax.train --config=configs/dino_spectral_earth.py:vit_s --workdir=runs/se_dino \\
        --config.data.sources.enmap.store=stores/se

Data: 538,974 EnMAP patches of 415,153 locations, 128 px, 202 bands. Published figures: not
available to us.

Hyper-parameters are those of the released configs: 100 epochs of 415,153 locations, batch 256; the
global crops come from two dates where a location has them, else from one date twice; AdamW at 0.001
with weight decay 1e-5 on every weight, 20 epochs of warm-up from a twentieth of the rate, then a
half-cosine of 100 epochs, cut off after 80 at a tenth of the rate; 128 prototypes, frozen for one
epoch; student temperature 0.1, teacher temperature 0.04, centre momentum 0.9. How the published
weights were trained is not known. Crops are kornia's, with aligned corners. The blocks of the ViT
are recomputed in the backward pass, since 1,025 tokens attend to each other.

`vit_s,local` adds local crops of 48 px, which the released code supports and leaves off. Each shows
one of the two dates at random. Their number is not known: 8, as for DINO on SSL4EO-S12.

Departures from the released code:

* Teacher: its momentum rises from 0.996 to 1 over the whole run; theirs over ten epochs, after
  which the teacher is frozen. Its head starts as a copy of the student's; theirs is initialised on
  its own.
* BatchNorm: statistics cover all crops of one size, as in DINO; theirs each crop.
* Schedule: it advances per step, not per epoch.
* Positions: in `vit_s`, fixed sine-cosine, counted from the corner of each crop, instead of learned
  ones.
* Initial weights: in `vit_s`, Xavier-uniform instead of truncated normal.
* Precision: bfloat16 instead of float16.
* No-data: takes no part in views and statistics.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("vit_s", "vit_s,local", "rn50", "smoke")
_BATCH = 256
_STEPS = 100 * 415_153 // _BATCH


def get_config(arg: str = "vit_s") -> ml_collections.ConfigDict:
    """`vit_s`, `vit_s,local`, `rn50`; `smoke` is a few steps of a tiny ViT with local crops."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/dino_spectral_earth.py: no variant {arg!r}; there are {'; '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/se",
        "sensor": "enmap",
        "dates": 2,
        "missing": "repeat",
    }
    config.data = {
        "sources": {"enmap": source},
        "batch_size": _BATCH,
        "crop": 128,
        "threads": 16,
        "prefetch": 4,
    }
    crops = {
        "global": {
            "views": 2,
            "size": 128,
            "scale": (0.05, 1.0),
            "interpolation": "bilinear_corners",
            "flips": "both",
            "dates": "each",
            "blur_prob": 0.5,
        }
    }
    if arg in ("vit_s,local", "smoke"):
        crops["local"] = {
            "views": 8,
            "size": 48,
            "scale": (0.05, 0.4),
            "interpolation": "bilinear_corners",
            "flips": "both",
            "dates": "random",
            "blur_prob": 0.5,
        }
    config.augment = {
        "crops": crops,
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
            "size": "small",
            "remat": "block",
        },
    }
    if arg == "rn50":
        config.model = {
            "stems": {"enmap": {"name": "spectral_adapter_image"}},
            "trunk": {
                "name": "resnet",
                "depth": 50,
                "first_block": "strided",
            },
        }
    config.objective = {
        "name": "dino",
        "prototypes": 128,
        "hidden": 2048,
        "bottleneck": 256,
        "momentum": 0.996,
    }
    config.optim = {
        "lr": 1e-3,
        "warmup_steps": _STEPS // 5,
        "warmup_start_factor": 0.05,
        "horizon": 1.25,
        "weight_decay": 1e-5,
        "beta2": 0.999,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
        "freeze_rules": (("last_layer", (0.0, 0.01)),),
    }
    config.run = {
        "steps": _STEPS,
        "seed": 12345,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 32
        config.augment.crops["global"].size, config.augment.crops.local.size = 32, 16
        config.augment.crops.local.blur_kernel = 3
        config.model.trunk = {
            "name": "vit",
            "size": "tiny",
            "depth": 1,
        }
        config.objective.update(
            {
                "prototypes": 32,
                "hidden": 64,
            }
        )
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
