"""PANGAEA (Marsocci et al. 2024, arXiv 2412.04204): weighted kNN, k = 200, cosine, T 0.1.
Its UPerNet is not here.
"""

from eo_jax.evaluation.classifiers import Neighbours

PROTOCOLS = {"knn": Neighbours(k=200, cosine=True, temperature=0.1)}
