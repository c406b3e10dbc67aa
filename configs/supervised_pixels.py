"""The network of semi_supervised_pixels.py trained on labelled pixels alone: its baseline.

    python -m data_prep convert hsi-scene --input /data/pavia --output stores/pavia \\
        --sensor rosis_pavia_university --image PaviaU.mat \\
        --ground-truth PaviaU_gt.mat --train-map TRpaviaU.mat --test-map TSpaviaU.mat
    python -m data_prep convert hsi-scene --input /data/houston --output stores/houston \\
        --sensor casi_houston2013 --image houston.mat \\
        --train-map TRhouston.mat --test-map TShouston.mat
    python -m data_prep convert hsi-scene --input /data/salinas_a --output stores/salinas_a \\
        --sensor aviris_salinas --image SalinasA_corrected.mat \\
        --ground-truth SalinasA_gt.mat --patch-size 16 --val-fraction 0.01 --test-fraction 0.5
    python -m eo_jax.train --config=configs/supervised_pixels.py:pavia \\
        --workdir=runs/supervised_pixels

Published figures: not available to us, and neither are label counts. The 10 labels per class of the
training map, steps and batch are our choice; SGD at 0.01 with a cosine and without weight decay is
how SSL4EO-S12 fine-tunes. The probes are fitted on the same 10 and scored on all pixels of the test
map.

On Salinas-A (`salinas_a`: tiles of 16 pixels, half of them for testing by a hash of their names;
one seed) nearest neighbours score 0.972, a linear probe 0.966, untrained 0.960.
"""

import ml_collections

from eo_jax.config import complete

_SCENES = {
    "pavia": ("stores/pavia", "rosis_pavia_university", 9),
    "houston": ("stores/houston", "casi_houston2013", 15),
    "salinas_a": ("stores/salinas_a", "aviris_salinas", 14),
}
VARIANTS = (*_SCENES, "smoke")


def get_config(arg: str = "pavia") -> ml_collections.ConfigDict:
    """`pavia` (University), `houston` (2013), `salinas_a`; `smoke` is a few steps of a small
    network.
    """
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/supervised_pixels.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    store, sensor, classes = _SCENES.get(arg, _SCENES["pavia"])
    config = ml_collections.ConfigDict()
    source = {
        "store": store,
        "sensor": sensor,
        "draw": "pixel",
        "cache": "memory",
        "label": "landcover",
        "labels_per_class": 10,
    }
    config.data = {
        "sources": {"support": source},
        "batch_size": 32,
        "crop": 1,
    }
    crops = {
        "views": 1,
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
        "stems": {"support": {"name": "identity"}},
        "trunk": {
            "name": "spectral_cnn",
            "dims": 1,
            "window": 1,
            "width": 128,
        },
    }
    config.objective = {
        "name": "supervised",
        "task": "classification",
        "outputs": classes,
    }
    config.optim = {
        "name": "sgd",
        "lr": 0.01,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    config.sharding = {"rules": ((".*", ()),)}  # a small network: copied, not split
    config.run = {
        "steps": 2000,
        "log_every": 50,
        "save_every": 1000,
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
        "supervised": {"test_split": "test"},
    }
    if arg == "smoke":
        config.data.batch_size = 16
        config.model.trunk.update(
            {
                "width": 16,
                "layers": 2,
            }
        )
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
