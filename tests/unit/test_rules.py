"""Rule tables: the first match wins, and every rule and every leaf must be met."""

from __future__ import annotations

import pytest

from eo_jax import rules

TREE = {"encoder": {"cls_token": 1, "blocks": [{"bias": 2, "kernel": 3}]}, "head": {"kernel": 4}}


def test_paths_are_in_tree_order_with_their_leaves():
    assert list(rules.paths(TREE)) == [
        ("encoder/blocks/0/bias", 2),
        ("encoder/blocks/0/kernel", 3),
        ("encoder/cls_token", 1),
        ("head/kernel", 4),
    ]


def test_first_match_wins():
    matched = rules.match(
        [("bias|token", "none"), ("^encoder", "slow"), (".*", "fast")], TREE, "lr"
    )
    assert matched == {
        "encoder": {"cls_token": "none", "blocks": [{"bias": "none", "kernel": "slow"}]},
        "head": {"kernel": "fast"},
    }


def test_a_pattern_may_match_anywhere_in_the_path_and_anchors_hold():
    assert rules.match([("^kernel", 1), (".*", 2)], {"kernel": 0, "head": {"kernel": 0}}, "t") == {
        "kernel": 1,
        "head": {"kernel": 2},
    }


def test_values_need_not_be_leaves():
    assert rules.match([(".*", (1, None))], {"a": 0}, "t") == {"a": (1, None)}


@pytest.mark.parametrize(
    ("table", "unused"),
    [
        ([("typo", 0), (".*", 1)], "typo"),
        ([(".*", 1), ("bias", 0)], "bias"),
        ([("kernel", 1), ("head", 0), (".*", 2)], "head"),
    ],
    ids=["matches nothing", "behind a rule for everything", "an earlier rule took all of it"],
)
def test_an_unused_rule_is_an_error(table: list, unused: str):
    with pytest.raises(ValueError, match=rf"decay: rules that match no weight.*\['{unused}'\]"):
        rules.match(table, TREE, "decay")


def test_an_unmatched_leaf_is_an_error():
    with pytest.raises(ValueError, match="sharding: no rule matches 'head/kernel'"):
        rules.match([("encoder", 0)], TREE, "sharding")


def test_unmatched_leaves_may_have_a_default_but_an_unused_rule_is_still_an_error():
    assert rules.match_some([("head", 1)], TREE, "t", None) == {
        "encoder": {"cls_token": None, "blocks": [{"bias": None, "kernel": None}]},
        "head": {"kernel": 1},
    }
    assert rules.match_some([], {"a": 0}, "t", 5) == {"a": 5}
    with pytest.raises(ValueError, match=r"freeze: rules that match no weight.*\['haed'\]"):
        rules.match_some([("haed", 1)], TREE, "freeze", None)


def test_a_broken_pattern_is_named():
    with pytest.raises(
        ValueError, match=r"decay: '\(bias' is not a regular expression: missing \)"
    ):
        rules.match([("(bias", 0)], TREE, "decay")


@pytest.mark.parametrize(
    ("path", "stacked"),
    [
        ("trunk/blocks/layers/mlp/kernel", True),
        ("layers/kernel", True),
        ("trunk/sublayers/kernel", False),
        ("trunk/layers", False),
    ],
)
def test_weights_below_layers_are_stacked(path: str, stacked: bool):
    assert rules.is_stacked(path) == stacked
