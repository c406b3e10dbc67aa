"""The same classifiers on images in their own size, for patches that 224 pixels would blur."""

import numpy as np

from eo_jax.evaluation.judges import Linear, Neighbours

JUDGES = {
    "knn": Neighbours(k=5, cosine=False),
    "linear": Linear(tuple(np.logspace(-4, 4, 9)), iterations=200),
}
