"""SpectralEarth (Braham et al. 2024, arXiv 2408.08447): its two heads for maps on frozen features,
and fine-tuning.

Its own code leaves BatchNorm of the frozen backbone in training mode; here frozen is frozen.
"""

from eo_jax.evaluation.dense_heads import ConvHead, FcnHead
from eo_jax.evaluation.fine_tuning import FineTuning
from eo_jax.evaluation.trained_head import TrainedHead

PROTOCOLS = {
    "conv": TrainedHead(ConvHead, epochs=100, batch=16, lr=1e-3, weight_decay=1e-4),
    "fine_tune": FineTuning(epochs=100, batch=64, lr=1e-3, weight_decay=1e-4),
    "fcn": TrainedHead(FcnHead, epochs=100, batch=16, lr=1e-3, weight_decay=1e-4),
}
