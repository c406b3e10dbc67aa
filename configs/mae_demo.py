"""What `make demo` trains: MAE on a simulated EnMAP archive, two minutes on two cores.

    python -m data_prep simulate --output archives/demo
    python -m data_prep convert spectral-earth --input archives/demo --output stores/demo --labels landuse
    python -m eo_jax.train --config=configs/mae_demo.py --workdir=runs/demo

Variants: `tiles` for a folder of plain EnMAP tiles (4 px tokens on 32 px crops, no probe), `tiles,probe` where they have a land-cover map,
`smoke` for a few steps of a tiny model.
"""

import ml_collections

from eo_jax import build

VARIANTS = ("", "tiles", "tiles,probe", "smoke")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """See the module docstring."""
    if arg not in VARIANTS:
        raise ValueError(f"configs/mae_demo.py: no variant {arg!r}; there are {', '.join(repr(variant) for variant in VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.data = {"sources": {"enmap": {"store": "stores/demo", "sensor": "enmap"}}, "batch_size": 32, "crop": 64}
    config.augment = {"recipe": "crop_flip", "size": 64, "scale": (0.4, 1.0), "statistics": "published"}
    config.model = {
        "stems": {"enmap": {"name": "spectral_adapter", "patch": 8}},
        "trunk": {"name": "vit", "size": "tiny", "depth": 4, "pool": "mean"},
    }
    # Not norm_pix: the demo reports reconstruction in reflectance.
    config.objective = {"name": "mae", "mask_ratio": 0.75, "norm_pix_loss": False, "decoder_width": 192, "decoder_depth": 2, "decoder_heads": 6}
    config.optim = {"lr": 1.5e-3, "warmup_steps": 40, "weight_decay": 0.05}
    config.run = {"steps": 300, "log_every": 10, "save_every": 150}
    config.evals = {"reconstruction": {"masks": 5}, "linear_probe": {"label": "landuse"}}
    if arg.startswith("tiles"):
        config.data.batch_size = 16
        config.data.crop = config.augment.size = 32
        config.model.stems.enmap.patch = 4
        del config.evals.linear_probe
    if arg == "tiles,probe":
        config.evals.linear_probe = {"label": "landcover"}
    if arg == "smoke":
        config.data.batch_size = 8
        config.model.trunk.depth = config.objective.decoder_depth = 1
        config.optim.warmup_steps = 1
        config.run = {"steps": 4, "log_every": 1, "save_every": 2}
        config.evals = {"reconstruction": {"masks": 1}}
    return build.complete(config)
