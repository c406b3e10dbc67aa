"""MAE on windows of one hyperspectral scene, to compare with Barlow Twins on its pixels.

    python -m data_prep convert hsi-scene --input /data/salinas_a --output stores/salinas_a \\
        --sensor aviris_salinas --image SalinasA_corrected.mat --ground-truth SalinasA_gt.mat
    python -m eo_jax.train --config=configs/mae_scene.py --workdir=runs/mae_scene

For another scene see configs/barlow_scene.py. The few-label benchmark takes it as

    python -m eo_jax.evaluate few-label --store stores/pavia --output results_mae \\
        --pretrain --config=configs/mae_scene.py

A window of 5 x 5 pixels is 25 tokens, each the spectrum of a pixel; three quarters are hidden and
their spectra predicted. The feature is the mean of the tokens. On the two scenes that the benchmark
is tuned on it was far behind Barlow Twins, see docs/few-label.md: to predict a spectrum, brightness
is worth more than what tells classes apart.
"""

import ml_collections

from eo_jax.config import complete

VARIANTS = ("scene", "smoke")


def get_config(arg: str = "scene") -> ml_collections.ConfigDict:
    """`scene`; `smoke` is a few steps of a small network."""
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/mae_scene.py: no variant {arg!r}; there are {', '.join(VARIANTS)}"
        )
    config = ml_collections.ConfigDict()
    source = {
        "store": "stores/salinas_a",
        "sensor": "aviris_salinas",
        "split": "all",
        "draw": "pixel",
        "cache": "memory",
    }
    config.data = {
        "sources": {"pixels": source},
        "batch_size": 256,
        "crop": 5,
    }
    crops = {
        "size": 5,
        "scale": (1.0, 1.0),
        "ratio": (1.0, 1.0),
        "flips": "d4",
        "brightness": (0.9, 1.1),
    }
    config.augment = {
        "crops": {"global": crops},
        "statistics": "store",
    }
    config.model = {
        "stems": {"pixels": {"name": "patch_embed", "patch": 1}},
        "trunk": {"name": "vit", "size": "nano", "depth": 2, "pool": "mean"},
        "dtype": "float32",  # bfloat16 would round away what tells classes apart
    }
    config.objective = {
        "name": "mae",
        "mask_ratio": 0.75,
        "norm_pix_loss": False,
        "decoder_width": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
    }
    config.optim = {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 1e-4,
    }
    config.sharding = {"rules": ((".*", ()),)}  # a small network: copied, not split
    config.run = {
        "steps": 600,
        "log_every": 100,
        "save_every": 600,
    }
    config.evals = {"collapse": {}}
    if arg == "smoke":
        config.data.batch_size = 16
        config.model.trunk.depth = 1
        config.objective.update({"decoder_width": 16, "decoder_heads": 2})
        config.run = {
            "steps": 4,
            "log_every": 1,
            "save_every": 2,
        }
    return complete(config)
