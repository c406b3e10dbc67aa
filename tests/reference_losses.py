"""The loss functions of the papers in numpy float64, one line of a paper a line, to compare
`eo_jax.objectives` with.

Where a paper stops the gradient, the fixed values are an argument of their own, so that central
differences of these functions are the gradient meant.
"""

from __future__ import annotations

import numpy as np


def normalise(x):
    """Rows of Euclidean length 1; a zero row stays zero."""
    return x / np.sqrt(np.maximum(np.sum(x**2, axis=-1, keepdims=True), 1e-24))


def log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def softmax(x):
    return np.exp(log_softmax(x))


def log_sum_exp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return top + np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True))


def cosines(a, b):
    """[m, n]: cosine of each row of a with each row of b."""
    return normalise(a) @ normalise(b).T


# --- DINO


def dino_loss(student, teacher, centre, student_temperature, teacher_temperature):
    """Caron et al. 2021 (arXiv 2104.14294), eq. 3 and algorithm 1: H(teacher view i, student view
    j) over the pairs with i != j.
    """
    total, pairs = 0.0, 0
    for i in range(len(teacher)):
        target = softmax((teacher[i] - centre) / teacher_temperature)
        for j in range(len(student)):
            if i != j:
                total += np.mean(
                    -np.sum(target * log_softmax(student[j] / student_temperature), axis=-1)
                )
                pairs += 1
    return total / pairs


def new_centre(centre, teacher, momentum):
    """Caron et al. 2021 (arXiv 2104.14294), eq. 4."""
    rows = [row for view in teacher for row in view]
    return momentum * centre + (1 - momentum) * sum(rows) / len(rows)


def koleo(x):
    """Sablayrolles et al. 2019 (arXiv 1806.03198), the KoLeo regulariser, on normalised rows as in
    DINOv2 (arXiv 2304.07193).
    """
    x, logs = normalise(x), []
    for i in range(len(x)):
        nearest = min(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)
        logs.append(np.log(nearest + 1e-8))
    return -np.mean(logs)


# --- redundancy reduction


def cross_correlation(za, zb):
    """Zbontar et al. 2021 (arXiv 2103.03230), eq. 2, after BatchNorm without affine (biased
    variance, epsilon 1e-5).
    """
    za, zb = ((z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5) for z in (za, zb))
    return za.T @ zb / len(za)


def off_diagonal_squares(c):
    return sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j)


def barlow_loss(za, zb, off_diagonal):
    """Zbontar et al. 2021 (arXiv 2103.03230), eq. 1."""
    c = cross_correlation(za, zb)
    return np.sum((1 - np.diag(c)) ** 2) + off_diagonal * off_diagonal_squares(c)


def decur_loss(z1a, z1b, z2a, z2b, common, off_diagonal):
    """Wang et al. 2024 (DeCUR, arXiv 2309.05300), the sum of four: common and unique dimensions
    across modalities, and each modality by itself.
    """
    c = cross_correlation(z1a, z2a)
    shared, unique = c[:common, :common], c[common:, common:]
    loss_common = np.sum((1 - np.diag(shared)) ** 2) + off_diagonal * off_diagonal_squares(shared)
    loss_unique = np.sum(np.diag(unique) ** 2) + off_diagonal * off_diagonal_squares(unique)
    return (
        loss_common
        + loss_unique
        + barlow_loss(z1a, z1b, off_diagonal)
        + barlow_loss(z2a, z2b, off_diagonal)
    )


def vicreg_loss(za, zb, invariance, variance, covariance):
    """Bardes et al. 2022 (arXiv 2105.04906), eqs. 1-6, epsilon 1e-4, gamma 1; eq. 5 as in algorithm
    1: the mean over b and d.
    """
    similar = np.mean((za - zb) ** 2)
    spread = sum(
        np.mean(np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4))) for z in (za, zb)
    )
    centred = [z - z.mean(axis=0) for z in (za, zb)]
    cross_correlation = sum(
        off_diagonal_squares(z.T @ z / (len(z) - 1)) / z.shape[1] for z in centred
    )
    return invariance * similar + variance * spread + covariance * cross_correlation


# --- contrastive


def moco_loss(q, k, queue, temperature):
    """He et al. 2020 (arXiv 1911.05722), eq. 1; the rows of `queue` have length 1 already."""
    q, k = normalise(q), normalise(k)
    logits = (
        np.stack([np.concatenate([[q[i] @ k[i]], queue @ q[i]]) for i in range(len(q))])
        / temperature
    )
    return -np.mean(log_softmax(logits)[:, 0])


def moco_v3_loss(q1, q2, k1, k2, temperature):
    """Chen, Xie, He 2021 (arXiv 2104.02057), algorithm 1: ctr(q1, k2) + ctr(q2, k1)."""
    return sum(
        -2 * temperature * np.mean(np.diag(log_softmax(cosines(q, k) / temperature)))
        for q, k in ((q1, k2), (q2, k1))
    )


def nt_xent(za, zb, temperature):
    """Chen et al. 2020 (SimCLR, arXiv 2002.05709), eq. 1 and algorithm 1: every view against the 2b
    - 1 others.
    """
    similar, b, losses = cosines(np.concatenate([za, zb]), np.concatenate([za, zb])), len(za), []
    for i in range(2 * b):
        others = np.array([similar[i, j] / temperature for j in range(2 * b) if j != i])
        losses.append(log_sum_exp(others, axis=0)[0] - similar[i, (i + b) % (2 * b)] / temperature)
    return np.mean(losses)


def clip_loss(za, zb, temperature):
    """Radford et al. 2021 (CLIP, arXiv 2103.00020), figure 3."""
    logits = cosines(za, zb) / temperature
    return (-np.mean(np.diag(log_softmax(logits))) - np.mean(np.diag(log_softmax(logits.T)))) / 2


# --- without negatives


def byol_loss(p1, p2, z1, z2):
    """Grill et al. 2020 (BYOL, arXiv 2006.07733), eq. 2 (2 - 2 cos) and its twin with the views
    exchanged.
    """
    return sum(
        np.mean([2 - 2 * normalise(p[i]) @ normalise(z[i]) for i in range(len(p))])
        for p, z in ((p1, z2), (p2, z1))
    )


def simsiam_loss(p1, p2, z1, z2):
    """Chen, He 2021 (SimSiam, arXiv 2011.10566), eqs. 1-2."""
    return sum(
        -np.mean([normalise(p[i]) @ normalise(z[i]) for i in range(len(p))]) / 2
        for p, z in ((p1, z2), (p2, z1))
    )


# --- SwAV


def sinkhorn(scores, epsilon, iterations):
    """Caron et al. 2020 (SwAV, arXiv 2006.09882), eqs. 3-5 and appendix A.1; in logarithms, so that
    nothing underflows.
    """
    b, k = scores.shape
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_sum_exp(log_q, axis=0) - np.log(k)
        log_q = log_q - log_sum_exp(log_q, axis=1) - np.log(b)
    return b * np.exp(log_q)


def swav_loss(scores, queued, temperature, epsilon, iterations, scores_of_targets=None):
    """Caron et al. 2020 (SwAV, arXiv 2006.09882), eqs. 1-2, with multi-crop (section 3.2): views 0
    and 1 assign, all others predict.
    Small batches (section 3.1): view i is assigned together with the kept rows `queued[i]`, and
        only the batch's rows are targets."""
    fixed, losses = scores if scores_of_targets is None else scores_of_targets, []
    for i in (0, 1):
        target = sinkhorn(np.concatenate([queued[i], fixed[i]]), epsilon, iterations)[
            len(queued[i]) :
        ]
        others = [scores[j] for j in range(len(scores)) if j != i]
        losses.append(
            np.mean(
                [
                    -np.mean(np.sum(target * log_softmax(other / temperature), axis=-1))
                    for other in others
                ]
            )
        )
    return np.mean(losses)


# --- data2vec


def layer_norm(x):
    """Over the last axis, without affine, epsilon 1e-5."""
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)


def average_targets(layers):
    """Baevski et al. 2022 (data2vec, arXiv 2202.03555), training targets: the mean of the last K
    layers, each normalised, normalised again.
    """
    return layer_norm(sum(layer_norm(layer) for layer in layers) / len(layers))


def smooth_l1(x, y, beta, masked):
    """Baevski et al. 2022 (data2vec, arXiv 2202.03555), the objective, over the masked tokens."""
    away = np.abs(x - y)[masked]
    return np.mean(np.where(away < beta, 0.5 * away**2 / beta, away - beta / 2))


# --- PAWS


def soft_labels(z, support, support_labels, temperature):
    """Assran et al. 2021 (PAWS, arXiv 2104.13963), the non-parametric similarity classifier."""
    return softmax(cosines(z, support) / temperature) @ support_labels


def sharpen(p, temperature):
    """Assran et al. 2021 (PAWS, arXiv 2104.13963), the sharpening function."""
    powers = p ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def cross_entropies(target, p):
    """[b]: -sum target log p, where 0 log 0 is 0."""
    return -np.sum(
        np.where(target == 0, 0.0, target * np.log(np.where(target == 0, 1.0, p))), axis=-1
    )


def view_assignment_loss(p1, p2, sharpening, target1=None, target2=None):
    """Assran et al. 2021 (PAWS, arXiv 2104.13963), the objective: views predict each other
    sharpened; less the entropy of their mean. From the released code: a target has no part below
    1e-4.
    """
    sharp1, sharp2 = sharpen(p1, sharpening), sharpen(p2, sharpening)
    target1 = sharp1 if target1 is None else sharpen(target1, sharpening)
    target2 = sharp2 if target2 is None else sharpen(target2, sharpening)
    target1, target2 = (np.where(t < 1e-4, 0.0, t) for t in (target1, target2))
    mean = (sharp1 + sharp2).sum(axis=0) / (2 * len(p1))
    agree = (np.mean(cross_entropies(target2, p1)) + np.mean(cross_entropies(target1, p2))) / 2
    return agree - cross_entropies(mean, mean)


# --- with labels


def cross_entropy(logits, label):
    """Mean of -log softmax at the label, classes 1 to k; label 0 is left out; 0 where nothing is
    labelled.
    """
    logits, label = logits.reshape(-1, logits.shape[-1]), label.reshape(-1)
    losses = [-log_softmax(logits[i])[label[i] - 1] for i in range(len(label)) if label[i] != 0]
    return np.mean(losses) if losses else 0.0


def multi_label(logits, label):
    """Mean of -(y log s(x) + (1 - y) log(1 - s(x))), s the logistic function: log s(x) = -log(1 +
    exp(-x)).
    """
    return np.mean(label * np.logaddexp(0, -logits) + (1 - label) * np.logaddexp(0, logits))


def regression(predicted, label):
    """Mean squared error over the labels that are not NaN; 0 where all are."""
    squares = (predicted - label)[~np.isnan(label)] ** 2
    return squares.mean() if squares.size else 0.0
