"""eo_jax: self-supervised pretraining for Earth observation in JAX."""

__version__ = "0.1.0"
