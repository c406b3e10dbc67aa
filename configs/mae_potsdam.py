"""MAE on ten real EnMAP L2A tiles of Potsdam (32 x 32 px, 24 July 2022): the smallest real run, on a laptop.

python -m data_prep convert enmap-tiles --input ../shared/data/enmap/potsdam_l2a_tiles --output stores/potsdam --val '*_64_32' --val '*_96_96'
python -m eo_jax.train --config=configs/mae_potsdam.py --workdir=runs/potsdam --config.data.sources.enmap.store=stores/potsdam
"""

import ml_collections

from eo_jax import build

VARIANTS = ("", "smoke")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`smoke` is a few steps of a tiny model."""
    if arg not in VARIANTS:
        raise ValueError(f"configs/mae_potsdam.py: no variant {arg!r}; there are {', '.join(repr(v) for v in VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.data = {"sources": {"enmap": {"store": "stores/potsdam", "sensor": "enmap"}}, "batch_size": 16, "crop": 32}
    config.augment = {"recipe": "crop_flip", "size": 32, "scale": (0.5, 1.0), "statistics": "published"}
    config.model = {"stems": {"enmap": {"name": "spectral_adapter", "patch": 4}}, "trunk": {"name": "vit", "size": "tiny", "depth": 6}}
    config.objective = {"name": "mae", "mask_ratio": 0.75, "norm_pix_loss": False, "decoder_width": 192, "decoder_depth": 2, "decoder_heads": 6}
    config.optim = {"lr": 1e-3, "warmup_steps": 40, "weight_decay": 0.05}
    config.run = {"steps": 400, "log_every": 20, "save_every": 200}
    config.evals = {"reconstruction": {"every": 100, "masks": 20}}
    if arg == "smoke":
        config.model.trunk.depth = 1
        config.objective.decoder_depth = 1
        config.run = {"steps": 4, "log_every": 1, "save_every": 2}
        config.optim.warmup_steps = 1
        config.evals.reconstruction = {"masks": 1}
    return build.complete(config)
