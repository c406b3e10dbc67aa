"""Configs of a command line: overrides, evaluators by name, and mistakes."""

from __future__ import annotations

import pytest

from eo_jax import config_flags

CONFIG = "configs/mae_demo.py:smoke"


def test_overrides_are_told_from_other_arguments():
    others, overrides = config_flags.split_overrides(
        ["prog", "--config=a.py", "--config.optim.lr", "3", "--workdir", "x", "--config.a=4", "-v"]
    )
    assert others == ["prog", "--config=a.py", "--workdir", "x", "-v"]
    assert overrides == ["--config.optim.lr", "3", "--config.a=4"]


def test_an_override_changes_its_value_alone():
    config = config_flags.load(
        CONFIG, ["--config.optim.lr", "7e-3", '--config.augment.crops["global"].views=2']
    )
    expected = config_flags.load(CONFIG, [])
    expected.optim.lr, expected.augment.crops["global"].views = 7e-3, 2
    assert config.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("overrides", "evals", "expected"),
    [
        ([], None, {"reconstruction": {"masks": 1}}),
        ([], ["knn"], {"knn": {"label": "landuse"}}),
        ([], [], {}),
        (
            ["--config.evals.knn.label=crop"],
            None,
            {"reconstruction": {"masks": 1}, "knn": {"label": "crop"}},
        ),
        (
            ["--config.evals.knn.label=crop"],
            ["knn", "reconstruction"],
            {"reconstruction": {"masks": 1}, "knn": {"label": "crop"}},
        ),
    ],
)
def test_evaluators_are_chosen_and_added_by_name(overrides, evals, expected):
    found = config_flags.load(CONFIG, overrides, evals).evals.to_dict()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert values.items() <= found[name].items()


@pytest.mark.parametrize(
    ("path", "override", "message"),
    [
        (
            CONFIG,
            "--config.optim.lrate=3",
            r"config\.optim\.lrate: unknown key; .* accum, .* lr,",
        ),
        (CONFIG, "--config.optin.lr=3", r"config\.optin: unknown key; .* Did you mean 'optim'\?"),
        (CONFIG, '--config.augment.crops["globe"].size=3', r"globe: unknown .* mean 'global'\?"),
        (CONFIG, "--config.evals.kn.label=a", r"no evaluators named 'kn'; .* Did you mean 'knn'\?"),
        (CONFIG, "--config.evals.knn.k=5", r"config\.evals\.knn\.k: unknown key; .* neighbours"),
        (CONFIG, "--config.optim.lr=fast", "could not convert string to float: 'fast'"),
        ("configs/none.py", "--config.optim.lr=3", r"there is no file configs/none\.py"),
        ("configs/mae_demo.py:b", "--config.optim.lr=3", "no variant 'b'; there are"),
    ],
)
def test_a_mistake_is_named_with_what_there_is(path, override, message):
    with pytest.raises(ValueError, match=message):
        config_flags.load(path, [override])
