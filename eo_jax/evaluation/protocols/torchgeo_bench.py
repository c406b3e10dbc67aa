"""torchgeo-bench (torchgeo/torchgeo-bench, docs/user/methodology.rst): 224 pixels, features as they
are, kNN with k = 5 and L2, L-BFGS over 40 values of C, a linear head for maps.
"""

import numpy as np

from eo_jax.evaluation.classifiers import Linear, Neighbours
from eo_jax.evaluation.dense_heads import LinearHead
from eo_jax.evaluation.trained_head import TrainedHead

_INPUT = {"resize": 224, "normalisation": "data"}
PROTOCOLS = {
    "knn": Neighbours(k=5, cosine=False, **_INPUT),
    "linear": Linear(tuple(np.logspace(-6, 4, 40)), **_INPUT),
    "segmentation_linear": TrainedHead(
        LinearHead, epochs=10, batch=64, lr=1e-3, weight_decay=0.01, end_lr=1e-6, **_INPUT
    ),
}
