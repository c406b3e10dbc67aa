"""Hyperspectral pixels whose views are assigned to classes by similarity to a few labelled pixels.

    python -m data_prep convert hsi-scene --input /data/pavia --output stores/pavia \\
        --sensor rosis_pavia_university --image PaviaU.mat \\
        --ground-truth PaviaU_gt.mat --train-map TRpaviaU.mat --test-map TSpaviaU.mat
    python -m data_prep convert hsi-scene --input /data/houston --output stores/houston \\
        --sensor casi_houston2013 --image houston.mat \\
        --train-map TRhouston.mat --test-map TShouston.mat
    python -m data_prep convert hsi-scene --input /data/salinas_a --output stores/salinas_a \\
        --sensor aviris_salinas --image SalinasA_corrected.mat \\
        --ground-truth SalinasA_gt.mat --patch-size 16 --val-fraction 0.01 --test-fraction 0.5
    python -m eo_jax.train --config=configs/semi_supervised_pixels.py:pavia \\
        --workdir=runs/semi_pixels

After arXiv 2306.10955 (IGARSS 2023).

Published figures: not available to us. The abstract names Houston 2013 and Pavia University and
reports better results than self-supervision alone and supervision alone; configs/barlow_pixels.py
and configs/supervised_pixels.py are these two, with the same network and labels. Encoder, views,
the exact loss, label counts and hyper-parameters are not known to us. The loss is that of PAWS, on
which the paper builds, with its sharpening of 0.25; encoder and optimizer are those of
barlow_pixels.py; views are the pixel itself, brighter or darker and without some bands.

On Salinas-A (`salinas_a`: tiles of 16 pixels, half of them for testing by a hash of their names;
700 of the 2788 steps, which are 209 epochs of the others, one seed) a linear probe on 10 labels per
class scores 0.966, untrained 0.956: six kinds of crops that nearly any features tell apart. It is
the only scene here that anyone can download whole and train on in minutes; use it to check that
everything works, not to compare methods.

The 10 labels per class of the training map are our choice; every batch has the same number of each
class, or one more. The probes are fitted on the same 10 and scored on all pixels of the test map.
For another number of labels, with the same --config.run.seed for the same pixels:

    --config.data.sources.support.labels_per_class=5 --config.evals.knn.labels_per_class=5
    --config.evals.linear_probe.labels_per_class=5
"""

import ml_collections

from eo_jax.config import complete

_SCENES = {
    "pavia": ("stores/pavia", "rosis_pavia_university", 610 * 340, 9),
    "houston": ("stores/houston", "casi_houston2013", 349 * 1905, 15),
    # six of Salinas' classes: 1 and 10 to 14
    "salinas_a": ("stores/salinas_a", "aviris_salinas", 83 * 86, 14),
}
VARIANTS = (*_SCENES, "smoke")
_BATCH = 256


def get_config(arg: str = "pavia") -> ml_collections.ConfigDict:
    """`pavia` (University), `houston` (2013), `salinas_a`; `smoke` is a few steps of a small
    network.
    """
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/semi_supervised_pixels.py: no variant {arg!r}; there are "
            f"{', '.join(VARIANTS)}"
        )
    store, sensor, pixels, classes = _SCENES.get(arg, _SCENES["pavia"])
    config = ml_collections.ConfigDict()
    scene = {
        "store": store,
        "sensor": sensor,
        "draw": "pixel",
        "cache": "memory",
    }
    support = scene | {
        "label": "landcover",
        "labels_per_class": 10,
    }
    config.data = {
        "sources": {
            "pixels": scene,
            "support": support,
        },
        "batch_size": _BATCH,
        "crop": 1,
    }
    crops = {
        "views": 2,
        "size": 1,
        "scale": (1.0, 1.0),
        "ratio": (1.0, 1.0),
        "flips": "none",
        "brightness": (0.6, 1.4),
        "jitter_prob": 0.8,
        "band_drop_prob": 0.5,
        "band_drop": (1, 6),
    }
    config.augment = {
        "crops": {"global": crops},
        "statistics": "store",
    }
    config.model = {
        "stems": {
            "pixels": {"name": "identity"},
            "support": "pixels",
        }
    }
    config.model.trunk = {
        "name": "spectral_cnn",
        "dims": 1,
        "window": 1,
        "width": 128,
    }
    config.objective = {
        "name": "semi_supervised",
        "classes": classes,
        "support": "support",
        "sharpening": 0.25,
    }
    config.optim = {
        "name": "lars",
        "lr": 0.1,
        "weight_decay": 1e-6,
        "clip_norm": 0.0,
        "lr_rules": (("(bias|scale)$", 0.0048 / 0.1), (".*", 1.0)),
    }
    config.sharding = {"rules": ((".*", ()),)}  # a small network: copied, not split
    config.run = {
        "steps": 100 * pixels // _BATCH,
        "log_every": 100,
        "save_every": 5000,
    }
    probe = {
        "label": "landcover",
        "test_split": "test",
        "labels_per_class": 10,
    }
    config.evals = {
        "collapse": {},
        "linear_probe": probe,
        "knn": probe | {"neighbours": 5},
    }
    if arg == "smoke":
        config.data.batch_size = 16
        config.model.trunk.update(
            {
                "width": 16,
                "layers": 2,
            }
        )
        config.objective.projector = (32, 32)
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
