"""Collectives are read from the text of a partitioned program, in all forms that XLA writes."""

from __future__ import annotations

import pytest

from eo_jax.plan import collectives

HEADER = "HloModule jit_f, is_scheduled=true, num_partitions=8\n\n"
GROUPS = "replica_groups={{0,1,2,3},{4,5,6,7}}"


def module(*lines: str, before: str = "") -> str:
    """The text of a module whose entry computation has these lines."""
    body = "".join(f"  {line}\n" for line in lines)
    return f"{HEADER}{before}ENTRY %main (x: f32[8,16]) -> f32[8,16] {{\n{body}}}\n"


def only(line: str, **kwargs: str) -> collectives.Collective:
    (found,) = collectives.read(module(line, **kwargs))
    return found


# --- programs compiled here


def test_every_kind_of_a_compiled_program_is_found_with_size_and_group(eight_devices):
    found = {c["kind"]: c for c in eight_devices("partitioned", "every_kind")}
    assert set(found) == set(collectives.KINDS)
    sizes = dict.fromkeys(collectives.KINDS, 8 * 16 * 4) | {"all-gather": 4 * 8 * 16 * 4}
    assert {kind: c["bytes"] for kind, c in found.items()} == sizes
    assert all(c["members"] == [0, 1, 2, 3] for c in found.values())
    assert all(c["dtype"] == "f32" and c["times"] == 1 for c in found.values())


def test_collectives_of_a_scan_count_once_per_turn_and_name_their_operation(eight_devices):
    found = eight_devices("partitioned", "scanned")
    in_loop = [c for c in found if c["in_loop"]]
    assert {(c["kind"], tuple(c["members"])) for c in in_loop} >= {
        ("all-gather", (0, 1, 2, 3)),
        ("all-reduce", (0, 4)),
    }
    assert {c["times"] for c in in_loop} == {3}
    assert {c["times"] for c in found if not c["in_loop"]} <= {1}
    assert all("/while/body/" in c["op_name"] for c in in_loop)
    # A gathered weight is named by the product that needs it, or by its slice (JAX 0.11).
    reduced = [c["op_name"] for c in in_loop if c["kind"] == "all-reduce"]
    assert all(name.endswith("dot_general") for name in reduced)


# --- forms of other platforms


@pytest.mark.parametrize(
    ("line", "kind", "shape"),
    [
        (
            "%a = (bf16[2,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), channel_id=1, "
            f"{GROUPS}, dimensions={{0}}",
            "all-gather",
            (8, 16),
        ),
        (f"%a = bf16[8,16]{{1,0}} all-reduce-start(%x), {GROUPS}", "all-reduce", (8, 16)),
        (
            f"%a = bf16[2,16]{{1,0:T(8,128)(2,1)S(1)}} reduce-scatter(%x), {GROUPS}",
            "reduce-scatter",
            (8, 16),
        ),
        (
            "%a = (bf16[8,16]{1,0}, bf16[8,16]{1,0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}",
            "collective-permute",
            (8, 16),
        ),
        (
            f"ROOT %a = ({', '.join(['bf16[2,16]{1,0}'] * 4)}) all-to-all(%x, %y), {GROUPS}",
            "all-to-all",
            (4, 2, 16),
        ),
    ],
)
def test_starts_and_tuples_have_the_size_of_the_whole_array(line, kind, shape):
    found = only(line)
    assert (found.kind, found.shape, found.dtype, found.bytes) == (kind, shape, "bf16", 256)
    assert found.members == (0, 1, 2, 3)


def test_the_end_of_an_asynchronous_collective_is_not_another():
    start = f"%a = (f32[2], f32[8]) all-gather-start(%x), {GROUPS}"
    assert len(collectives.read(module(start, "%b = f32[8] all-gather-done(%a)"))) == 1


def test_a_combined_reduction_is_one_collective_per_array():
    line = f"%a = (f32[8,16]{{1,0}}, /*index=1*/bf16[16]{{0}}) all-reduce(%x, %y), {GROUPS}"
    assert [(c.dtype, c.shape) for c in collectives.read(module(line))] == [
        ("f32", (8, 16)),
        ("bf16", (16,)),
    ]


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("replica_groups={}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups={{0,4},{1,5}}", (0, 4)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'b'}", (7, 6, 5, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_device_groups_in_every_form(groups, members):
    found = only(f"%a = f32[8]{{0}} all-reduce(%x), channel_id=3, {groups}, to_apply=%add")
    assert found.members == members


def test_groups_of_an_unknown_form_are_refused_with_the_line():
    with pytest.raises(ValueError, match=r"unknown form: %a = f32\[8\] all-reduce"):
        collectives.read(module("%a = f32[8] all-reduce(%x), replica_groups=torus{0}"))


TPU = f"""%all-reduce-scatter.1 (x: f32[8,16]) -> f32[2,16] {{
  %r = f32[8,16]{{1,0}} all-reduce(%x), channel_id=5, {GROUPS}
}}

%fused (x: f32[2,16]) -> f32[8,16] {{
  %g = f32[8,16]{{1,0}} all-gather(%x), channel_id=9, {GROUPS}, frontend_attributes={{chain_id="0"}}
}}

%async_collective_fusion (x: f32[2,16]) -> f32[8,16] {{
  %h = f32[8,16]{{1,0}} all-gather(%x), channel_id=9, {GROUPS}, frontend_attributes={{chain_id="0"}}
}}

%body (x: f32[8,16]) -> f32[8,16] {{
  %f = f32[2,16] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %i = f32[8,16] fusion(%x), kind=kOutput, calls=%fused
  %j = f32[8,16] fusion(%x), kind=kOutput, calls=%async_collective_fusion
}}

%condition (x: s32[]) -> pred[] {{
  %limit = s32[]{{:T(128)}} constant(24)
}}

"""


def test_fusions_of_tpus_hold_a_reduce_scatter_and_parts_of_one_gather():
    loop = "%w = f32[8,16] while(%x), condition=%condition, body=%body"
    found = collectives.read(module(loop, before=TPU))
    assert [(c.kind, c.shape, c.times, c.in_loop) for c in found] == [
        ("reduce-scatter", (8, 16), 24, True),
        ("all-gather", (8, 16), 24, True),
    ]


def test_a_loop_of_unknown_length_has_no_number_of_turns():
    unknown = TPU.replace("constant(24)", "parameter(0)")
    loop = "%w = f32[8,16] while(%x), condition=%condition, body=%body"
    found = collectives.read(module(loop, before=unknown))
    assert {c.times for c in found} == {None}
    assert [row.total for row in collectives.table(found)] == [512, 512]


def test_the_table_counts_what_is_alike_and_begins_with_what_moves_most():
    small, large = (
        f"%{name} = {size} all-reduce(%x), {GROUPS}"
        for name, size in (("s", "f32[8]"), ("l", "f32[64]"))
    )
    rows = collectives.table(collectives.read(module(small, large, small)))
    assert [(row.shape, row.count, row.total) for row in rows] == [((64,), 1, 256), ((8,), 2, 64)]
