"""DINO (Caron et al. 2021, arXiv 2104.14294): weighted kNN, k = 20, cosine, T 0.07."""

from eo_jax.evaluation.classifiers import Neighbours

PROTOCOLS = {"knn": Neighbours(k=20, cosine=True, temperature=0.07)}
