"""PyTorch twins of our objectives: the same mathematics, written from the papers, simple and fast.

They do what the papers' code does, and no more: the views of a pair go through the encoder one by
one, the last block computes all tokens, correlation matrices are computed in full. Ours avoids that
work, and the ratios include the savings. Twins ignore no-data: every value of a view counts. This
file has DINO (arXiv 2104.14294), Barlow Twins (2103.03230), VICReg (2105.04906), SimCLR
(2002.05709), SimSiam (2011.10566), BYOL (2006.07733), MoCo-v2 (2003.04297), MoCo-v3 (2104.02057),
SwAV (2006.09882), CLIP (2103.00020), DeCUR (2309.05300), PAWS' view assignment (2104.13963) and
supervised classification; `step_twins_masked` has the objectives that mask tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_networks import Head, encoder_of
from benchmarks.step_twin_base import Twin, bands_first, ema_
from benchmarks.step_twins_masked import MAE, Data2Vec
from eo_jax.experiment import Experiment

_TINY = 1e-20  # smaller probabilities count as 0


class Branch(nn.Module):
    """DINO's encoder and head: views [b, c, H, W] -> [b, k]."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        config = experiment.objective.config
        widths = (
            experiment.objective.encoder.width,
            config.hidden,
            config.hidden,
            config.bottleneck,
        )
        layers = {f"fc{i}": nn.Linear(widths[i - 1], widths[i]) for i in (1, 2, 3)}
        self.encoder = encoder_of(experiment, experiment.objective.encoder)
        self.projector = nn.ModuleDict(
            {**layers, "last_layer": nn.Linear(config.bottleneck, config.prototypes, bias=False)}
        )

    def forward(self, view: Tensor) -> Tensor:
        head = self.projector
        x = F.gelu(head["fc2"](F.gelu(head["fc1"](self.encoder(view)))))
        return F.linear(
            F.normalize(head["fc3"](x).float(), dim=-1),
            F.normalize(head["last_layer"].weight, dim=-1),
        )


class DINO(Branch, Twin):
    """Two global views for both branches, local ones for the student; crops of one size in one
    forward pass.
    """

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.teacher = Branch(experiment).requires_grad_(False)
        self.config, self.views = experiment.objective.config, experiment.views
        self.register_buffer("centre", torch.zeros(self.config.prototypes))

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            bands_first(given[name].transpose(0, 1).flatten(0, 1), self.encoder)
            for name in ("global", "local")
        ]

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        config = self.config
        with torch.no_grad():
            found = self.teacher(large).float().unflatten(0, (2, -1))
            targets = ((found - self.centre) / config.teacher_temperature).softmax(-1)
            self.centre.lerp_(found.mean((0, 1)), 1 - config.centre_momentum)
        outputs = torch.cat(
            [
                Branch.forward(self, view).float().unflatten(0, (-1, targets.shape[1]))
                for view in (large, small)
            ]
        )
        pairs = (
            -torch.einsum(
                "ibk,jbk->ij", targets, (outputs / config.student_temperature).log_softmax(-1)
            )
            / targets.shape[1]
        )
        return (pairs.sum() - pairs.diagonal().sum()) / (pairs.numel() - len(pairs))

    @torch.no_grad()
    def after_step(self) -> None:
        ema_(self.teacher, (self.encoder, self.projector), self.config.momentum)


class Pair(Twin):
    """Two views, each passed separately through an encoder and its projector."""

    end = "bias_free"

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder, self.config = experiment.objective.encoder, experiment.objective.config
        self.encoder = encoder_of(experiment, encoder)
        self.projector = Head((encoder.width, *self.config.projector), end=self.end)

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [bands_first(given["global"][:, i], self.encoder) for i in (0, 1)]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.compare(*(self.projector(self.encoder(view)) for view in (first, second)))

    def compare(self, za: Tensor, zb: Tensor) -> Tensor:
        """The loss of two embeddings [b, k]."""
        raise NotImplementedError


class BarlowTwins(Pair):
    """Cross-correlation near the identity."""

    def compare(self, za: Tensor, zb: Tensor) -> Tensor:
        return correlation_distance(
            standardised(za), standardised(zb), 1.0, self.config.off_diagonal
        )


def standardised(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the batch."""
    return F.batch_norm(z, None, None, training=True)


def correlation_distance(za: Tensor, zb: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """The squared distance of the diagonal of the correlation matrix of standardised embeddings
    from `diagonal`, plus the weighted squares of its other entries.
    """
    correlation = za.T @ zb / len(za)
    on = torch.diagonal(correlation)
    return (diagonal - on).square().sum() + off_diagonal * (
        correlation.square().sum() - on.square().sum()
    )


class VICReg(Pair):
    """Variance, invariance, covariance."""

    def compare(self, za: Tensor, zb: Tensor) -> Tensor:
        config = self.config
        spread = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (za, zb))
        return (
            config.invariance * F.mse_loss(za, zb)
            + config.variance * spread
            + config.covariance * sum(map(self._covariance, (za, zb)))
        )

    def _covariance(self, z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        squares = (centred.T @ centred / (len(z) - 1)).square()
        return (squares.sum() - squares.diagonal().sum()) / z.shape[1]


class SimCLR(Pair):
    """Each embedding finds its partner among all others."""

    end = "norm"

    def compare(self, za: Tensor, zb: Tensor) -> Tensor:
        z = F.normalize(torch.cat([za, zb]))
        logits = (z @ z.T / self.config.temperature).fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(za)))


class SimSiam(Pair):
    """Each view predicts the other, through which no gradient flows."""

    end = "plain_norm"

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        width = self.config.projector[-1]
        self.predictor = Head((width, *self.config.predictor, width))

    def compare(self, za: Tensor, zb: Tensor) -> Tensor:
        pairs = ((self.predictor(za), zb), (self.predictor(zb), za))
        return -sum(F.cosine_similarity(predicted, z.detach()).mean() for predicted, z in pairs) / 2


class WithTeacher(Pair):
    """A pair with a predictor and an EMA teacher of encoder and projector."""

    predictor_end = "linear"

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        encoder, config = experiment.objective.encoder, self.config
        self.predictor = Head((config.projector[-1], *config.predictor), end=self.predictor_end)
        head = Head((encoder.width, *config.projector), end=self.end)
        self.teacher = nn.ModuleDict(
            {"encoder": encoder_of(experiment, encoder), "projector": head}
        ).requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        with torch.no_grad():
            ka, kb = (
                self.teacher["projector"](self.teacher["encoder"](view)) for view in (first, second)
            )
        qa, qb = (self.predictor(self.projector(self.encoder(view))) for view in (first, second))
        return self.compare(qa, kb) + self.compare(qb, ka)

    @torch.no_grad()
    def after_step(self) -> None:
        ema_(self.teacher, (self.encoder, self.projector), self.config.momentum)


class BYOL(WithTeacher):
    """The prediction's distance to the teacher's embedding of the other view."""

    end = "linear"

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return (2 - 2 * F.cosine_similarity(q, k)).mean()


class MoCoV3(WithTeacher):
    """The prediction finds the teacher's embedding of the other view among those of the batch."""

    end = predictor_end = "plain_norm"

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        temperature = self.config.temperature
        logits = F.normalize(q) @ F.normalize(k).T / temperature
        return 2 * temperature * F.cross_entropy(logits, torch.arange(len(q), device=q.device))


class MoCo(Pair):
    """A query finds the teacher's key of the other view among a queue of earlier keys. BatchNorm by
    groups of rows ("ghost" batches).
    """

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        encoder, config = experiment.objective.encoder, self.config

        def head():
            return Head((encoder.width, *config.projector), config.projector_norm, "linear")

        self.projector = head()
        self.teacher = nn.ModuleDict(
            {"encoder": encoder_of(experiment, encoder), "projector": head()}
        ).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(config.queue_size, config.projector[-1]))
        self.grouped, self.next = encoder.kind != "tokens", 0

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        self.queue.copy_(given["queue"])
        return [*super().inputs(given), given["order"]]

    def forward(self, first: Tensor, second: Tensor, order: Tensor) -> Tensor:
        q = F.normalize(
            self.projector(
                self._features(self.encoder, first, torch.arange(len(order), device=order.device))
            )
        )
        with torch.no_grad():
            self.keys = F.normalize(
                self.teacher["projector"](self._features(self.teacher["encoder"], second, order))
            )
        logits = (
            torch.cat([(q * self.keys).sum(1, keepdim=True), q @ self.queue.T], dim=1)
            / self.config.temperature
        )
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))

    def _features(self, encoder: nn.Module, view: Tensor, order: Tensor) -> Tensor:
        """Features with BatchNorm statistics per group of rows that are neighbours in `order`, if
        there is any BatchNorm.
        """
        if not self.grouped:
            return encoder(view)
        grouped = view[order.argsort()].split(self.config.bn_group)
        return torch.cat([encoder(rows) for rows in grouped])[order]

    @torch.no_grad()
    def after_step(self) -> None:
        ema_(self.teacher, (self.encoder, self.projector), self.config.momentum)
        self.queue[self.next : self.next + len(self.keys)] = self.keys
        self.next = (self.next + len(self.keys)) % len(self.queue)


class ViewAssignment(Pair):
    """Soft labels of two views, by similarity to a labelled support set; they should agree and use
    all classes.
    """

    end = "linear"

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        labels = F.one_hot(
            given["beside/global/label"].flatten().long() - 1, self.config.classes
        ).float()
        smoothed = (
            labels * (1 - self.config.smoothing) + self.config.smoothing / self.config.classes
        )
        return [
            *super().inputs(given),
            bands_first(given["beside/global"].flatten(0, 1), self.encoder),
            smoothed,
        ]

    def forward(self, first: Tensor, second: Tensor, support: Tensor, labels: Tensor) -> Tensor:
        anchors = F.normalize(self.projector(self.encoder(support)))

        def assign(z):
            return (F.normalize(z) @ anchors.T / self.config.temperature).softmax(-1) @ labels

        p = [assign(self.projector(self.encoder(view))) for view in (first, second)]
        sharp = [(x.clamp_min(_TINY).log() / self.config.sharpening).softmax(-1) for x in p]
        agree = (
            -sum(
                (target.detach() * x.clamp_min(_TINY).log()).sum(1).mean()
                for target, x in zip(sharp[::-1], p, strict=True)
            )
            / 2
        )
        mean = (sharp[0].mean(0) + sharp[1].mean(0)) / 2
        return agree + (mean * mean.clamp_min(_TINY).log()).sum()


class SwAV(Pair):
    """Prototypes assigned to one view are predicted from the others; crops of one size in one
    forward pass, all crops in one pass of the head.
    """

    end = "linear"

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.prototypes = nn.ModuleDict(
            {"last_layer": nn.Linear(self.config.projector[-1], self.config.prototypes, bias=False)}
        )

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            bands_first(given[name].transpose(0, 1).flatten(0, 1), self.encoder)
            for name in ("global", "local")
        ]

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        config = self.config
        projected = F.normalize(
            self.projector(torch.cat([self.encoder(large), self.encoder(small)]))
        )
        scores = F.linear(projected, F.normalize(self.prototypes["last_layer"].weight)).unflatten(
            0, (-1, len(large) // 2)
        )
        predicted = (scores / config.temperature).log_softmax(-1)
        total = 0
        for i in (0, 1):
            pairs = (
                -torch.einsum("bk,vbk->v", self._assigned(scores[i].detach()), predicted)
                / scores.shape[1]
            )
            total = total + (pairs.sum() - pairs[i]) / (len(scores) - 1)
        return total / 2

    @torch.no_grad()
    def _assigned(self, scores: Tensor) -> Tensor:
        q = scores / self.config.epsilon
        for _ in range(self.config.sinkhorn_iterations):
            q = q - q.logsumexp(0, keepdim=True)
            q = q - q.logsumexp(1, keepdim=True)
        return q.softmax(1)


class Supervised(Twin):
    """Classification of whole patches, classes from 1."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder = experiment.objective.encoder
        self.encoder = encoder_of(experiment, encoder)
        self.classifier = nn.ModuleDict(
            {"linear": nn.Linear(encoder.width, experiment.objective.config.outputs)}
        )

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            bands_first(given["global"][:, 0], self.encoder),
            given["global/label"][:, 0].long() - 1,
        ]

    def forward(self, view: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier["linear"](self.encoder(view)).float(), label)


class Sensors(Twin):
    """Views of two sensors, each through its own encoder and projector."""

    end = "linear"

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.config, encoders = experiment.objective.config, experiment.objective.by_source
        self.encoders = nn.ModuleDict(
            {source: encoder_of(experiment, encoder) for source, encoder in encoders.items()}
        )
        self.projectors = nn.ModuleDict(
            {
                source: Head((e.width, *self.config.projector), end=self.end)
                for source, e in encoders.items()
            }
        )

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        named = (("global", "eo"), ("beside/global", "beside"))
        return [
            bands_first(view, self.encoders[source])
            for name, source in named
            for view in given[name].unbind(1)
        ]

    def forward(self, *views: Tensor) -> Tensor:
        sources = [source for source in ("eo", "beside") for _ in range(len(views) // 2)]
        return self.compare(
            *(
                self.projectors[source](self.encoders[source](view))
                for source, view in zip(sources, views, strict=True)
            )
        )

    def compare(self, *z: Tensor) -> Tensor:
        """The loss of embeddings [b, k], first those of the first sensor."""
        raise NotImplementedError


class CLIP(Sensors):
    """The two embeddings of a location find each other in the batch."""

    def compare(self, za: Tensor, zb: Tensor) -> Tensor:
        logits = F.normalize(za) @ F.normalize(zb).T / self.config.temperature
        right = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


class DeCUR(Sensors):
    """Barlow Twins within each sensor and between sensors, with common and unique dimensions."""

    end = "bias_free"

    def compare(self, *z: Tensor) -> Tensor:
        (first_a, first_b, second_a, second_b), common, weight = (
            map(standardised, z),
            self.config.common,
            self.config.off_diagonal,
        )
        within = correlation_distance(first_a, first_b, 1.0, weight) + correlation_distance(
            second_a, second_b, 1.0, weight
        )
        shared = correlation_distance(first_a[:, :common], second_a[:, :common], 1.0, weight)
        unique = correlation_distance(first_a[:, common:], second_a[:, common:], 0.0, weight)
        return shared + unique + within


TWINS: dict[str, type[Twin]] = {
    "mae": MAE,
    "dino": DINO,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "byol": BYOL,
    "moco": MoCo,
    "moco_v3": MoCoV3,
    "swav": SwAV,
    "data2vec": Data2Vec,
    "semi_supervised": ViewAssignment,
    "supervised": Supervised,
    "clip": CLIP,
    "decur": DeCUR,
}
