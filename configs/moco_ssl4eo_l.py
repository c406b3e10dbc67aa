"""MoCo-v2 on SSL4EO-L with ResNets and ViT-S/16 (arXiv 2306.09424).

    python -m data_prep convert ssl4eo-l --input /data/ssl4eo_l --output stores/l
    python -m eo_jax.train --config=configs/moco_ssl4eo_l.py --workdir=runs/l_moco \\
        --config.data.sources.oli_sr.store=stores/l

Data: 250,000 locations in four seasons, five Landsat products. A variant is an encoder (rn18, rn50,
vit_s) and a product (tm_toa, etm_toa, etm_sr, oli_tirs_toa, oli_sr):
configs/moco_ssl4eo_l.py:rn18,tm_toa.

Published figures, U-Net on NLCD / CDL, overall accuracy in %:

             tm_toa         etm_toa        etm_sr         oli_tirs_toa   oli_sr
    rn18     67.65 / 68.70  65.22 / 62.84  64.18 / 67.30  67.82 / 65.74  67.01 / 68.05
    rn50     68.75 / 69.45  66.60 / 64.12  64.37 / 62.35  69.17 / 67.29  67.44 / 65.96
    vit_s    67.17 / 67.60  63.75 / 60.88  64.09 / 52.37  67.11 / 64.62  66.81 / 64.17

Hyper-parameters are those of the released configs: 200 epochs, 256 locations per process, SGD at
0.12 (ViT-S 0.012), divided by ten from epoch 120 and again from 160, temperature 0.07, a queue of
65,536 keys, a projector without BatchNorm, two different seasons as the two views, learned
positions in ViT-S. Crops and jitter are kornia's: corners are aligned; brightness adds up to 0.4 to
values in 0..1 or subtracts it and clips, so that at its lowest it blackens every pixel below 0.4,
in thermal bands, too; contrast multiplies. The number of processes is not known; the batch of 1,024
is the one for which 0.12 equals MoCo's 0.03 per 256. The learning rate of ResNet-18 is not known:
that of ResNet-50 here.

Departures from the released code:

* Initial weights: random instead of ImageNet's, including the positions of `vit_s`.
* Teacher: the key encoder's projector starts as a copy of the query encoder's; theirs is
  initialised on its own.
* Pixels: normalised per band with the statistics of the store (none are published), not divided by
  255.
* Blur: before brightness and contrast, not after them and their clipping.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* BatchNorm: sees groups of 256 rows, permuted for the keys.
* Precision: bfloat16 on accelerators.
"""

import ml_collections

from eo_jax.config import complete

_SENSORS = {
    "tm_toa": "landsat5_tm_toa",
    "etm_toa": "landsat7_etm_toa",
    "etm_sr": "landsat7_etm_sr",
    "oli_tirs_toa": "landsat8_oli_tirs_toa",
    "oli_sr": "landsat8_oli_sr",
}
_PAIRS = tuple(f"{arch},{product}" for arch in ("rn18", "rn50", "vit_s") for product in _SENSORS)
# Each encoder and each product at least once; tests/golden records the weights of these pairs.
VARIANTS = (
    "rn50,oli_sr",
    "rn50,etm_sr",
    "rn18,tm_toa",
    "rn18,etm_toa",
    "vit_s,oli_tirs_toa",
    "smoke",
)
_BATCH = 1024
_STEPS = 200 * 250_000 // _BATCH


def get_config(arg: str = "rn50,oli_sr") -> ml_collections.ConfigDict:
    """An encoder and a product, such as `vit_s,etm_sr`, all fifteen pairs; `smoke` is a few steps
    of a tiny model.
    """
    if arg not in (*_PAIRS, "smoke"):
        raise ValueError(
            f"configs/moco_ssl4eo_l.py: no variant {arg!r}; there are {'; '.join(_PAIRS)}; smoke"
        )
    arch, product = ("vit_s", "oli_sr") if arg == "smoke" else arg.split(",")
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/l",
        "sensor": _SENSORS[product],
        "dates": 2,
    }
    config.data = {
        "sources": {product: source},
        "batch_size": _BATCH,
        "crop": 264,
        "threads": 8,
    }
    crops = {
        "views": 2,
        "size": 224,
        "scale": (0.2, 1.0),
        "flips": "both",
        "interpolation": "bilinear_corners",
        "dates": "each",
        "jitter": "additive",
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,
    }
    config.augment = {
        "crops": {"global": crops},
        "statistics": "store",
    }
    config.model = {
        "stems": {product: {"name": "conv"}},
        "trunk": {
            "name": "resnet",
            "depth": 18 if arch == "rn18" else 50,
        },
    }
    config.objective = {
        "name": "moco",
        "temperature": 0.07,
        "queue_size": 65_536,
        "momentum": 0.999,
        "projector": (2048, 128),
        "bn_group": 256,
    }
    config.optim = {
        "name": "sgd",
        "lr": 0.12,
        "schedule": "step",
        "milestones": (0.6, 0.8),
        "gamma": 0.1,
        "weight_decay": 1e-4,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
    }
    config.run = {
        "steps": _STEPS,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if arch == "vit_s":
        config.model = {
            "stems": {
                product: {
                    "name": "patch_embed",
                    "patch": 16,
                }
            },
            "trunk": {
                "name": "vit",
                "size": "small",
                "positions": "learned",
                "grid": 14,
            },
        }
        config.optim.lr = 0.012
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 64
        config.augment.crops["global"].size = 64
        config.model.trunk = {
            "name": "vit",
            "size": "tiny",
            "depth": 1,
            "positions": "learned",
            "grid": 4,
        }
        config.objective.queue_size, config.objective.bn_group = 64, 4
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
