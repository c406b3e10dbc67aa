"""SSL4EO-S12 (Wang et al. 2023, arXiv 2211.07044; zhu-xlab/SSL4EO-S12): a linear layer trained by
SGD for 100 epochs.

Its scripts have a learning rate for each encoder and set, 8 to 0.01; here validation chooses. ViTs
have its cosine schedule, MoCo's ResNet-50 divides by 10 after 60 and 80 epochs. It trains on random
crops of 0.2 (of several labels 0.8) to 1 and flips, and tests on the centre 224 of 256 pixels; here
features are computed once, from whole images of 224 pixels.
"""

from eo_jax.evaluation.sgd_linear import SgdLinear

PROTOCOLS = {"linear": SgdLinear(lrs=(0.01, 0.1, 1.0, 8.0), epochs=100, batch=256, resize=224)}
