"""On a mesh weights move, and samples stay on their device: what the compiled train step of every
trunk and objective exchanges on data 4 x fsdp 4.
"""

from __future__ import annotations

import math

import pytest
from multidevice.traffic import PRIME, ROWS
from tiny_objectives import OBJECTIVES, backbones_of

QUICK = "mae/vit"
# Objectives that compare samples: the values per row of a view that devices show each other, which
# are embeddings (16), scores of prototypes (10), or pooled features (the width of the trunk).
COMPARED = {
    "dino": 192,
    "swav": 16,
    "moco": 16,
    "moco_v3": 16,
    "simclr": 16,
    "clip": 16,
    "semi_supervised": 16,
}
QUEUES = {name: (f"objective.queue_size={ROWS}",) for name in ("moco", "swav")}
# Trunks and stems that the objectives above do not have: (target, settings, values per row).
OTHERS = [
    ("decur_sunrgbd:smoke", (), 0),  # MiT
    ("semi_supervised_pixels:smoke", (), 32),
    ("supervised_pixels:smoke", (), 0),  # whose rules split nothing
    ("dino_spectral_earth:smoke", (), 1),  # the spectral adapter
    ("mae_sensors:smoke", (), 0),  # one trunk for several sensors
    ("data2vec_ssl4eo_s12:smoke", (), 0),  # relative positions
    (
        "decur/resnet",
        ("model.trunk.blocks=[1,1,1,1]", 'model.trunk.attention="deformable"', "data.crop=64"),
        0,
    ),
]


def cases():
    for name in OBJECTIVES:
        for backbone in backbones_of(name):
            target = f"{name}/{backbone}"
            marks = () if target == QUICK else pytest.mark.slow
            settings = QUEUES.get(name, ())
            yield pytest.param(target, settings, COMPARED.get(name, 0), id=target, marks=marks)
    for target, settings, compared in OTHERS:
        yield pytest.param(
            target, settings, compared, id=f"{target}{len(settings)}", marks=pytest.mark.slow
        )


@pytest.mark.parametrize(("target", "settings", "compared"), list(cases()))
def test_only_weights_move_and_what_the_loss_compares(sixteen_devices, target, settings, compared):
    answer = sixteen_devices("traffic", target, *settings)
    found = [(kind, shape, size) for kind, shape, size, _ in answer["found"]]
    assert not answer["splits"] or "all-gather" in {kind for kind, _, _ in found}
    assert [c for c in found if not is_of_batch(c) and c[2] > answer["largest"]] == []
    moved = [c for c in found if is_of_batch(c)]
    if not compared:
        assert moved == []
    # of two views at once, in float32
    assert [c for c in moved if c[2] > 2 * ROWS * compared * 4] == []


@pytest.mark.slow
def test_model_exchanges_sums_of_tokens_in_blocks_and_nothing_else(sixteen_devices):
    """Of encoder and decoder, one block each: after attention and MLP, forward and backward."""
    answer = sixteen_devices(
        "traffic",
        "mae/vit",
        'model.trunk.size="small"',  # of six heads
        "sharding.fsdp=2",
        "sharding.model=2",
    )
    found = [(kind, shape, size) for kind, shape, size, _ in answer["found"]]
    assert [c[0] for c in found if is_of_batch(c)] == ["all-reduce"] * 8
    assert max(c[2] for c in found if not is_of_batch(c)) < answer["largest"]  # half of it


def is_of_batch(collective) -> bool:
    """Whether it moves rows of the batch; sums over rows do not have them any more."""
    return math.prod(collective[1]) % PRIME == 0
