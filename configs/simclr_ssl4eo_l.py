"""SimCLR on SSL4EO-L with ResNets and ViT-S/16 (arXiv 2306.09424).

    python -m data_prep convert ssl4eo-l --input /data/ssl4eo_l --output stores/l
    python -m eo_jax.train --config=configs/simclr_ssl4eo_l.py --workdir=runs/l_simclr \\
        --config.data.sources.oli_sr.store=stores/l

Data: 250,000 locations in four seasons, five Landsat products. A variant is an encoder (rn18, rn50,
vit_s) and a product (tm_toa, etm_toa, etm_sr, oli_tirs_toa, oli_sr):
configs/simclr_ssl4eo_l.py:rn18,tm_toa.

Published figures, U-Net on NLCD / CDL, overall accuracy in %:

             tm_toa         etm_toa        etm_sr         oli_tirs_toa   oli_sr
    rn18     60.86 / 61.94  58.76 / 56.47  57.26 / 54.42  62.14 / 60.01  59.93 / 57.44
    rn50     62.05 / 62.80  57.17 / 54.95  57.79 / 55.69  64.66 / 62.08  63.65 / 60.01
    vit_s    66.82 / 66.92  63.33 / 59.06  63.99 / 53.17  66.12 / 63.88  65.04 / 62.61

Hyper-parameters are those of the released configs: 200 epochs, 256 locations per process, LARS at
0.12 (ViT-S 0.012) with weight decay 1e-4, 10 epochs of warm-up from a third of the rate, then a
cosine as long as the whole run, which therefore does not reach 0, temperature 0.07, a projector of
two layers, two different seasons as the two views, learned positions in ViT-S. Crops and jitter are
kornia's, as in moco_ssl4eo_l.py, with brightness added or subtracted up to 0.8. The published
weights were made with an older release and an optimizer of the Adam family, whose settings are not
known. Nor is the number of processes: the batch of 1,024 is that of moco_ssl4eo_l.py. The learning
rate of ResNet-18 is not known: that of ResNet-50 here.

Departures from the released code:

* Initial weights: random instead of ImageNet's, including the positions of `vit_s`.
* Pixels: normalised per band with the statistics of the store (none are published), not divided by
  255.
* Blur: before brightness and contrast, not after them and their clipping.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Optimizer: LARS divides by the norm of gradient and decay together, as in Barlow Twins' released
  code; lightly's by the sum of their norms. Biases and norms are exempt from weight decay and from
  LARS' adaptation.
* Schedule: it advances per step, not per epoch.
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
            f"configs/simclr_ssl4eo_l.py: no variant {arg!r}; there are {'; '.join(_PAIRS)}; smoke"
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
        "scale": (0.08, 1.0),
        "flips": "both",
        "interpolation": "bilinear_corners",
        "dates": "each",
        "jitter": "additive",
        "brightness": (0.2, 1.8),
        "contrast": (0.2, 1.8),
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
        "name": "simclr",
        "temperature": 0.07,
        "projector": (2048, 128),
    }
    config.optim = {
        "name": "lars",
        "lr": 0.12,
        "warmup_steps": _STEPS // 20,
        "warmup_start_factor": 1 / 3,
        "horizon": 200 / 190,
        "weight_decay": 1e-4,
        "clip_norm": 0.0,
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
        config.optim.warmup_steps = 1
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
