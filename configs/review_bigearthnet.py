"""Four methods of "Self-supervised Learning in Remote Sensing: A Review" (arXiv 2206.13188).

    python -m data_prep convert bigearthnet --input /data/bigearthnet --output stores/bigearthnet
    python -m eo_jax.train --config=configs/review_bigearthnet.py:moco_rn50 \\
        --workdir=runs/review_moco

Data: BigEarthNet, 12 bands of Sentinel-2 L2A, 120 px. Published figures: not available to us.

Hyper-parameters are those of the released scripts, four GPUs each, epochs of 300,000 patches.
MoCo-v2 with ResNet-50: 400 epochs, batch 1024 (256 per GPU), SGD at 0.2, whole patches with
brightness and contrast, grayscale, blur, flips and dropped bands. With ResNet-18, nothing but a
crop from 0.8 of the area, 100 epochs and batch 256: Barlow Twins (LARS at 0.1, biases at 0.0048),
SimSiam (SGD at 0.05, divided by ten after 60 and 80 epochs) and SwAV (SGD at 0.3, 500 prototypes, a
queue of 1280 from epoch 15). Cosines have no warm-up. The rate of SimSiam's predictor falls with
the others', as in that script; the paper keeps it constant:
"--config.optim.constant_lr=('^predictor/',)".

The 300,000 are the length of their training list. An archive of version 1 must have such lists
(train.csv, val.csv, test.csv) in its folder when it is converted; without them all of its patches
are used for training, including the test patches. Version 2 has its own splits. The number of steps
does not depend on the store.

The augmentation study is one sweep over the name after a method and a comma, here for SimSiam.
Names are those of the released runs where they have one; which others the paper has is not known.
Each name means a crop from 0.8 of the area and the named augmentation; `all` has all of them,
`no_crop` all but the crop. Without a comma a method uses the augmentation described above; for the
last three that is `crop_0_8`.

    for name in crop_0_8 crop brightness grey blur flip band_drop all no_crop; do
        python -m eo_jax.train --config=configs/review_bigearthnet.py:simsiam_rn18,$name \\
            --workdir=runs/study_$name
    done

Departures from the released code:

* Pixels: digital numbers, unchanged and normalised per band with SSL4EO-S12's statistics, instead
  of reflectance in uint8, where brightness and contrast wrap around.
* Grayscale: the mean of a pixel's normalised bands; theirs of its digital numbers.
* Band drop: drops bands, as its name says: they are 0 after normalisation, i.e. their mean. Theirs
  takes the first axis of [row, column, band] for the bands and sets 1 to 6 rows of the image to
  reflectance 0.
* Initial weights: no zero initialisation of residual branches.
* BatchNorm: in MoCo, sees groups of 256 rows, permuted for the keys, on any number of devices.
* Schedule: it advances per step, not per epoch.
* Precision: bfloat16 instead of float32 (Barlow Twins: float16).
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("moco_rn50", "barlow_rn18", "simsiam_rn18", "swav_rn18", "smoke")
_LOCATIONS = 300_000  # the length of the training split in the released code
_OBJECTIVES = {
    "moco_rn50": {
        "name": "moco",
        "temperature": 0.2,
        "queue_size": 65_536,
        "momentum": 0.999,
        "projector": (2048, 128),
        "bn_group": 256,
    },
    "barlow_rn18": {
        "name": "barlow_twins",
        "off_diagonal": 0.0051,
        "projector": (2048, 2048, 2048),
    },
    "simsiam_rn18": {
        "name": "simsiam",
        "projector": (512, 512, 2048),
        "predictor": (512,),
    },
    "swav_rn18": {
        "name": "swav",
        "prototypes": 500,
        "temperature": 0.1,
        "epsilon": 0.05,
        "sinkhorn_iterations": 3,
        "projector": (2048, 128),
        "queue_size": 1280,
        "queue_start": 0.15,
    },
    "smoke": {
        "name": "barlow_twins",
        "projector": (64, 64),
    },
}
_EVERY = ((".*", 1.0),)
_OPTIMIZERS = {
    "moco_rn50": {
        "name": "sgd",
        "lr": 0.2,
        "weight_decay": 1e-4,
        "decay_rules": _EVERY,
    },
    "barlow_rn18": {
        "name": "lars",
        "lr": 0.1,
        "weight_decay": 1e-6,
        "lr_rules": (("(bias|scale)$", 0.0048 / 0.1), (".*", 1.0)),
    },
    "simsiam_rn18": {
        "name": "sgd",
        "lr": 0.05,
        "schedule": "step",
        "milestones": (0.6, 0.8),
        "weight_decay": 1e-4,
        "decay_rules": _EVERY,
    },
    "swav_rn18": {
        "name": "sgd",
        "lr": 0.3,
        "weight_decay": 1e-5,
        "decay_rules": _EVERY,
    },
    "smoke": {
        "name": "lars",
        "lr": 0.1,
        "weight_decay": 1e-6,
    },
}


_CROP = {"scale": (0.2, 1.0)}
_NO_CROP = {
    "size": 120,
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
}
_STUDY = {
    "brightness": {"jitter_prob": 0.8},  # and contrast
    "grey": {"grayscale_prob": 0.2},
    "blur": {"blur_prob": 0.5},
    "flip": {"flips": "left_right"},
    "band_drop": {
        "band_drop_prob": 0.5,
        "band_drop": (1, 6),
    },
}
_ALL = {key: value for settings in _STUDY.values() for key, value in settings.items()}
_DEFAULT = {"moco_rn50": "no_crop"}
STUDY = {
    "crop_0_8": {},
    "crop": _CROP,
    **_STUDY,
    "all": _CROP | _ALL,
    "no_crop": _NO_CROP | _ALL,
}


def get_config(arg: str = "moco_rn50") -> ml_collections.ConfigDict:
    """`moco_rn50`, `barlow_rn18`, `simsiam_rn18`, `swav_rn18`, each optionally followed by a comma
    and a name from STUDY; `smoke` is a few steps of Barlow Twins.
    """
    arg, comma, name = arg.partition(",")
    if arg not in VARIANTS or (comma and name not in STUDY):
        raise ValueError(
            f"configs/review_bigearthnet.py: no variant {arg + comma + name!r}; there are "
            f"{', '.join(VARIANTS)}; for the augmentation study add a comma and one of "
            f"{', '.join(STUDY)}"
        )
    epochs, batch = (400, 1024) if arg == "moco_rn50" else (100, 256)
    steps = epochs * _LOCATIONS // batch
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/bigearthnet",
        "sensor": "sentinel2_l2a_bigearthnet",
    }
    config.data = {
        "sources": {"s2": source},
        "batch_size": batch,
        "crop": 120,
        "threads": 8,
    }
    crops = {
        "views": 2,
        "size": 112,
        "scale": (0.8, 1.0),
        "flips": "none",
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "jitter_prob": 0.0,
    }
    crops |= STUDY[name or _DEFAULT.get(arg, "crop_0_8")]
    config.augment = {
        "crops": {"global": crops},
        "statistics": "published",
    }
    config.model = {
        "stems": {"s2": {"name": "conv"}},
        "trunk": {
            "name": "resnet",
            "depth": 50 if arg == "moco_rn50" else 18,
        },
    }
    config.objective = _OBJECTIVES[arg]
    config.optim = _OPTIMIZERS[arg] | {"clip_norm": 0.0}
    if arg == "swav_rn18":
        config.optim.freeze_rules = (("last_layer", (0.0, 313 / steps)),)
    config.run = {
        "steps": steps,
        "seed": 42,
        "log_every": 100,
        "save_every": 2000,
    }
    config.evals = {"collapse": {"every": 10_000}}
    if arg == "smoke":
        config.data.batch_size, config.data.crop = 8, 32
        config.augment.crops["global"].size = 32
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
