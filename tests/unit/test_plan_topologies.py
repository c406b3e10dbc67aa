"""Names of pods: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from eo_jax.plan import topologies


@pytest.mark.parametrize(
    ("text", "slices", "inside", "outside", "hosts"),
    [
        ("v5e:4x4", 1, 16, 1, 4),
        ("v5p:8x8x8", 2, 512, 2, 256),
        ("v6e:16x16", 1, 256, 1, 64),
        ("h100:8x4", 1, 8, 4, 4),
        ("h200:8", 2, 8, 2, 2),
    ],
)
def test_devices_inside_and_outside(text, slices, inside, outside, hosts):
    found = topologies.parse(text, slices)
    assert (found.inside, found.slices, found.hosts) == (inside, outside, hosts)
    assert found.devices == inside * outside


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("v7:4x4", 1, "--topology=v7:4x4: unknown; expected CHIP:SHAPE with CHIP one of v4, v5e"),
        ("v5litepod-16", 1, "expected CHIP:SHAPE"),
        ("v5p:4x4", 1, "2 sides, v5p is a torus of 3; expected as in v5p:4x4x4"),
        ("v5e:0x4", 1, "a side of 0"),
        ("h100:16", 1, "at most 8 GPUs per node"),
        ("v5e:4x4", 0, "--slices=0: expected at least 1"),
    ],
)
def test_what_is_not_a_topology_is_refused(text, slices, message):
    with pytest.raises(ValueError) as error:
        topologies.parse(text, slices)
    assert message in str(error.value)
