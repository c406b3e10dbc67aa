"""MoCo-v2 on SSL4EO-S12 with ResNets (arXiv 2211.07044).

    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output stores/s12 \\
        --products s2c s2a s1
    python -m eo_jax.train --config=configs/moco_ssl4eo_s12.py:rn50 --workdir=runs/s12_moco \\
        --config.data.sources.l1c.store=stores/s12

Data: 251,079 locations in four seasons, Sentinel-2 L1C and L2A, and Sentinel-1.

Published figures of ResNet-50 on L1C, fine-tuned: BigEarthNet 91.8 mAP, EuroSAT 99.1 %, So2Sat 60.9
%; on the official test set of BigEarthNet 88.7 mAP and 79.8 F1. For ResNet-18 and Sentinel-1: not
available to us.

Hyper-parameters are those of the released scripts for ResNet-50 on L1C: 100 epochs, batch 256, SGD
at 0.03 with a cosine and no warm-up, a queue of 65,536 keys, views of two independently drawn
seasons. ResNet-18 is trained by the same script; the hidden layer of its projector is as wide as
its features. The scripts of the published Sentinel-1 weights are not known: the same here, without
brightness and contrast, since a factor on decibels has no meaning. L2A (12 bands) follows L1C; no
figures for it are known. Their sources are called `s1` and `l2a`, as in
--config.data.sources.s1.store=stores/s12.

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
* Schedule: the cosine advances per step, not per epoch.
* BatchNorm: sees groups of 64 rows, the batch of one GPU of the published run, permuted for the
  keys, on any number of devices; the released code needs four (on one it diverges).
* Precision: bfloat16 instead of float32.

A batch reads all four seasons of its locations, 1.9 GB, since both views may show the same one. To
read half of that and show two different seasons: --config.data.sources.l1c.dates=2
"--config.augment.crops['global'].dates=each". SSL4EO-S12 v1.1, converted as ssl4eo-s12-v1.1, needs
--config.data.sources.l1c.sensor=sentinel2_l1c_offset; the published figures are not of that
version.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("rn50", "rn18", "rn50,l2a", "rn50,s1", "smoke")
_SENSORS = {
    "l1c": "sentinel2_l1c",
    "l2a": "sentinel2_l2a",
    "s1": "sentinel1_grd",
}
_BATCH = 256
_STEPS = 100 * 251_079 // _BATCH


def get_config(arg: str = "rn50") -> ml_collections.ConfigDict:
    """`rn50` and `rn18` on L1C, `rn50,l2a`, `rn50,s1`; `smoke` is a few steps of a small model."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/moco_ssl4eo_s12.py: no variant {arg!r}; there are {'; '.join(VARIANTS)}"
        )
    arch, _, product = arg.partition(",")
    product = product or "l1c"
    depth, width = (50, 2048) if arch == "rn50" else (18, 512)
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/s12",
        "sensor": _SENSORS[product],
        "dates": 4,
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
        "flips": "left_right",
        "dates": "random",
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,
    }
    if product != "s1":
        crops |= {
            "brightness": (0.6, 1.4),
            "contrast": (0.6, 1.4),
            "jitter_prob": 0.8,
        }
    config.augment = {
        "crops": {"global": crops},
        "statistics": "published",
    }
    config.model = {
        "stems": {product: {"name": "conv"}},
        "trunk": {
            "name": "resnet",
            "depth": depth,
        },
    }
    config.objective = {
        "name": "moco",
        "temperature": 0.2,
        "queue_size": 65_536,
        "momentum": 0.999,
        "projector": (width, 128),
        "bn_group": 64,
    }
    config.optim = {
        "name": "sgd",
        "lr": 0.03,
        "weight_decay": 1e-4,
        "clip_norm": 0.0,
        "decay_rules": ((".*", 1.0),),
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
        config.objective.queue_size, config.objective.bn_group = 64, 4
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
