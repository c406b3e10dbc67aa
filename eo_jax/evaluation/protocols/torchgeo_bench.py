"""torchgeo-bench (torchgeo/torchgeo-bench, docs/user/methodology.rst): 224 pixels, features as they
are, kNN with k = 5 and L2, L-BFGS over 40 values of C, and its heads for maps, FPN by default.
"""

import functools

import numpy as np

from eo_jax.evaluation.classifiers import Linear, Neighbours
from eo_jax.evaluation.torchgeo_heads import ConvBlockHead, FpnHead, LinearOfDepths
from eo_jax.evaluation.trained_head import TrainedHead

_INPUT = {"resize": 224, "normalisation": "data"}
_head = functools.partial(
    TrainedHead, epochs=10, batch=64, lr=1e-3, weight_decay=0.01, end_lr=1e-6, **_INPUT
)
PROTOCOLS = {
    "knn": Neighbours(k=5, cosine=False, **_INPUT),
    "linear": Linear(tuple(np.logspace(-6, 4, 40)), **_INPUT),
    "segmentation_linear": _head(LinearOfDepths),
    "segmentation_conv_block": _head(ConvBlockHead),
    "segmentation_fpn": _head(FpnHead),
}
