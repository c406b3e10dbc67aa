"""SpectralEarth (Braham et al. 2024, arXiv 2408.08447; AABNassim/spectral_earth): its heads on
frozen features, for classes and labels, numbers and maps, and fine-tuning.

Its own code leaves BatchNorm of the frozen encoder in training mode; here frozen is frozen. It
trains on random crops of 0.6 to 1 and flips; here features are computed once. It takes the class
token, whatever the pretraining; here that is `--pooling cls`.
"""

from eo_jax.evaluation.dense_heads import ConvHead, FcnHead
from eo_jax.evaluation.fine_tuning import FineTuning
from eo_jax.evaluation.trained_head import TrainedHead
from eo_jax.evaluation.vector_heads import LinearLayer, Perceptron, TrainedVectorHead

PROTOCOLS = {
    "linear": TrainedVectorHead(LinearLayer, epochs=100, batch=128, lr=1e-3, weight_decay=1e-5),
    "mlp": TrainedVectorHead(
        Perceptron,
        epochs=400,
        batch=64,
        lr=1e-3,
        weight_decay=1e-4,
        patience=15,
    ),
    "conv": TrainedHead(ConvHead, epochs=100, batch=16, lr=1e-3, weight_decay=1e-4),
    "fcn": TrainedHead(FcnHead, epochs=100, batch=16, lr=1e-3, weight_decay=1e-4),
    "fine_tune": FineTuning(
        epochs=100, batch=64, lr=1e-3, weight_decay=1e-4, number_head=Perceptron
    ),
}
