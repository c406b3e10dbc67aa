"""Barlow Twins on the pixels of one hyperspectral scene, before learning from few labels.

    python -m data_prep convert hsi-scene --input /data/pavia --output stores/pavia \\
        --sensor rosis_pavia_university --image PaviaU.mat \\
        --ground-truth PaviaU_gt.mat --train-map TRpaviaU.mat --test-map TSpaviaU.mat
    python -m data_prep convert hsi-scene --input /data/houston --output stores/houston \\
        --sensor casi_houston2013 --image houston.mat \\
        --train-map TRhouston.mat --test-map TShouston.mat
    python -m data_prep convert hsi-scene --input /data/salinas_a --output stores/salinas_a \\
        --sensor aviris_salinas --image SalinasA_corrected.mat \\
        --ground-truth SalinasA_gt.mat --patch-size 16 --val-fraction 0.01 --test-fraction 0.5
    python -m eo_jax.train --config=configs/barlow_pixels.py:pavia --workdir=runs/barlow_pixels

After arXiv 2206.12117 (IGARSS 2022).

Published figures: not available to us, and neither are encoder, views, scenes and hyper-parameters,
since we could not obtain the body of the paper. All we know is that it pretrains on unlabelled
pixels with Barlow Twins. Our choices: lambda, projector and optimizer of the SSL review's Barlow
Twins on BigEarthNet (100 epochs over all pixels of the scene, batch 256, LARS at 0.1, biases at
0.0048), its dropped bands, and a convolutional encoder along the spectrum. The scenes are those of
the group's later paper (arXiv 2306.10955). The probes at the end use 10 labels per class, also our
choice, and are scored on all pixels of the test map.

The two views are neighbours of a pixel, drawn from the 3 x 3 pixels around it, each up to a tenth
brighter or darker, with noise of a tenth of a band's standard deviation. On Salinas-A (`salinas_a`:
tiles of 16 pixels, half of them for testing by a hash of their names, the others for training),
after 500 of the 2788 steps (209 epochs of those tiles), with one seed, a linear probe scores 0.979
and 5 nearest neighbours 0.949; the untrained encoder's probe scores 0.963. With both views of the
pixel itself and no noise, they scored 0.957 and 0.833; with brightness 0.6 to 1.4, as for images,
0.877 and 0.639: most of the classes are lettuce of different ages, which brightness tells apart.

Where a scene has split maps, all of its pixels are drawn, including those of the test map; their
labels are never used. For windows of 5 x 5 pixels, as in Hamida et al., rotated and mirrored in all
eight ways, add (quote the overrides with brackets in a shell):

    --config.data.crop=5 --config.augment.crops['global'].size=5
    --config.augment.crops['global'].scale=(1.0,1.0) --config.augment.crops['global'].flips=d4
    --config.model.trunk.dims=3 --config.model.trunk.window=5
"""

import ml_collections

from eo_jax.config import complete

_SCENES = {
    "pavia": ("stores/pavia", "rosis_pavia_university", 610 * 340),
    "houston": ("stores/houston", "casi_houston2013", 349 * 1905),
    "salinas_a": ("stores/salinas_a", "aviris_salinas", 83 * 86),
}
VARIANTS = (*_SCENES, "smoke")
_BATCH = 256


def get_config(arg: str = "pavia") -> ml_collections.ConfigDict:
    """`pavia` (University), `houston` (2013), `salinas_a`; `smoke` is a few steps of a small
    network.
    """
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/barlow_pixels.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    store, sensor, pixels = _SCENES.get(arg, _SCENES["pavia"])
    config = ml_collections.ConfigDict()
    source = {
        "store": store,
        "sensor": sensor,
        "draw": "pixel",
        "cache": "memory",
    }
    config.data = {
        "sources": {"pixels": source},
        "batch_size": _BATCH,
        "crop": 3,
    }
    crops = {
        "views": 2,
        "size": 1,
        "scale": (0.12, 0.12),  # one pixel of the 3 x 3
        "ratio": (1.0, 1.0),
        "flips": "none",
        "brightness": (0.9, 1.1),
        "jitter_prob": 0.8,
        "noise_std": 0.1,
        "band_drop_prob": 0.5,
        "band_drop": (1, 6),
    }
    config.augment = {
        "crops": {"global": crops},
        "statistics": "store",
    }
    trunk = {
        "name": "spectral_cnn",
        "dims": 1,
        "window": 1,
        "width": 128,
    }
    config.model = {
        "stems": {"pixels": {"name": "identity"}},
        "trunk": trunk,
    }
    config.objective = {
        "name": "barlow_twins",
        "off_diagonal": 0.0051,
        "projector": (2048, 2048, 2048),
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
