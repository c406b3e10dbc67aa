"""Barlow Twins on the pixels of one hyperspectral scene, before few labels are learned from (after
arXiv 2206.12117, IGARSS 2022).

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

Published figures to compare with: none that we could read; nor could we read encoder, views, scenes
and hyper-parameters, the body of the paper being out of reach. That it pretrains by Barlow Twins on
unlabelled pixels is all that we know. What stands here instead: lambda, projector and optimizer of
the SSL review's Barlow Twins on BigEarthNet (100 epochs of batch 256, of all pixels of the scene,
LARS at 0.1, biases 0.0048), its dropped bands, and a convolutional encoder along the spectrum.
Scenes are those of the group's later paper (arXiv 2306.10955). 10 labels a class for the probes at
the end are ours; they are scored on all pixels of the test map.

The two views are a pixel's neighbours, drawn from the 3 x 3 pixels around it, each up to a tenth
brighter or darker, with noise of a tenth of a band's standard deviation. On Salinas-A (`salinas_a`:
tiles of 16 pixels, half of them for the test by a hash of their names, the others to train on),
after 500 of the 2788 steps (209 epochs of those tiles), one seed, a linear probe scores 0.979 and 5
nearest neighbours 0.949; the untrained encoder's probe 0.963. With both views of the pixel itself
and no noise it scored 0.957 and 0.833, and with brightness 0.6 to 1.4, as on images, 0.877 and
0.639: its classes are mostly lettuce of several ages, and brightness tells them apart.

With split maps all pixels of the scene are drawn, those of the test map too, whose labels are never
seen. Windows of 5 x 5 pixels instead, as Hamida et al. have them, turned and mirrored in all eight
ways (the shell needs those with brackets in quotes):

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
        "scale": (0.12, 0.12),
        "ratio": (1.0, 1.0),
        "flips": "none",
    }  # a pixel of the 3 x 3
    crops.update(
        {
            "brightness": (0.9, 1.1),
            "jitter_prob": 0.8,
            "noise_std": 0.1,
            "band_drop_prob": 0.5,
            "band_drop": (1, 6),
        }
    )
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
