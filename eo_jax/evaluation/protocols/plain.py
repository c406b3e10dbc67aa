"""The same classifiers on images in their own size, for patches that 224 pixels would blur."""

import numpy as np

from eo_jax.evaluation.classifiers import Linear, Neighbours
from eo_jax.evaluation.fine_tuning import FineTuning

PROTOCOLS = {
    "knn": Neighbours(k=5, cosine=False),
    "linear": Linear(tuple(np.logspace(-4, 4, 9)), iterations=200),
    "fine_tune": FineTuning(epochs=20, batch=32, lr=5e-4, weight_decay=0.05),
}
