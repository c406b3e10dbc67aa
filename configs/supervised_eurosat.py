"""Fine-tuning, shown on EuroSAT: ResNet-50 and a linear classifier, all weights trained.

    python -m data_prep convert eurosat --input /data/eurosat --output stores/eurosat \\
        --splits random
    python -m eo_jax.train --config=configs/supervised_eurosat.py:rn50 --workdir=runs/eurosat

Data: 27,000 chips of Sentinel-2 L1C, ten classes.

Published figures, overall accuracy of ResNet-50 pretrained on SSL4EO-S12: MoCo-v2 99.1 %, DINO 99.1
%. By default the encoder starts from random weights, for which no figure is known.

Hyper-parameters are those of the released script for MoCo-v2: 100 epochs, batch 256, SGD at 0.1
without weight decay, divided by ten after 60 and 80 epochs, random resized crops of 224 px with the
default area of that function, 0.08 to 1. (DINO's script has a rate of 0.001.) The program that this
script names trains only the classifier; the one that fine-tuned is not released.

Departures from the released code:

* Splits: torchgeo's random one, 16,200 chips for training and 5,400 for testing; theirs draws
  21,600 and 5,400 by class.
* Evaluation: test chips are resized whole to 224 px, not cropped from the centre of 256.
* Initial weights: the classifier has PyTorch's default ones; theirs a standard deviation of 0.01.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("rn50", "smoke")
_BATCH = 256
_STEPS = 100 * 16_200 // _BATCH


def get_config(arg: str = "rn50") -> ml_collections.ConfigDict:
    """`rn50`; `smoke` is a few steps of a small network."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/supervised_eurosat.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/eurosat",
        "sensor": "sentinel2_l1c",
        "label": "class",
    }
    config.data = {
        "sources": {"l1c": source},
        "batch_size": _BATCH,
        "crop": 64,
        "threads": 8,
    }
    config.augment = {
        "crops": {
            "global": {
                "views": 1,
                "size": 224,
                "scale": (0.08, 1.0),
                "flips": "left_right",
            }
        },
        "statistics": "published",
    }
    config.model = {
        "stems": {"l1c": {"name": "conv"}},
        "trunk": {
            "name": "resnet",
            "depth": 50,
        },
    }
    config.objective = {
        "name": "supervised",
        "task": "classification",
        "outputs": 10,
    }
    config.optim = {
        "name": "sgd",
        "lr": 0.1,
        "schedule": "step",
        "milestones": (0.6, 0.8),
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    # A ResNet has none of the weights that the default rules split.
    config.sharding = {"rules": ((".*", ()),)}
    config.run = {
        "steps": _STEPS,
        "seed": 42,
        "log_every": 50,
        "save_every": 1000,
    }
    scored = {
        "label": "class",
        "test_split": "test",
    }
    config.evals = {
        "collapse": {"every": 1000},
        "knn": scored | {"every": 1000},
        "linear_probe": scored,
        "supervised": {
            "every": 1000,
            "test_split": "test",
        },
    }
    if arg == "smoke":
        config.data.batch_size = 8
        config.augment.crops["global"].size = 32
        config.model.trunk.depth = 18
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
        config.evals = {}
    return complete(config)
