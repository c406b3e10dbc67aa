"""PANGAEA (Marsocci et al. 2024, arXiv 2412.04204): weighted kNN, k = 200, cosine, T 0.1; UPerNet
on frozen features.

Its change detection subtracts the dates; here the difference has no sign. ResNets, whose stages it
takes, give their last features.
"""

from eo_jax.evaluation.classifiers import Neighbours
from eo_jax.evaluation.trained_head import TrainedHead
from eo_jax.evaluation.upernet import UperNetHead

PROTOCOLS = {
    "knn": Neighbours(k=200, cosine=True, temperature=0.1, normalisation="data"),
    "upernet": TrainedHead(
        UperNetHead,
        epochs=80,
        batch=8,
        lr=1e-4,
        weight_decay=0.05,
        drops=(0.6, 0.9),
        chosen_by="miou",
        every=5,
        normalisation="data",
    ),
}
