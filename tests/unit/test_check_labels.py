"""A store with more classes than the objective knows is refused before training starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eo_jax.experiment import check_labels


def opened(**about: object) -> tuple[SimpleNamespace, SimpleNamespace]:
    """An experiment of three classes, and its pipeline on a store with one label."""
    store = SimpleNamespace(path="stores/a", manifest={"labels": {"cover": about}})
    experiment = SimpleNamespace(
        data=SimpleNamespace(sources={"s2": SimpleNamespace(label="cover")}),
        objective=SimpleNamespace(labelled={"s2": 3}),
        objective_name="supervised",
    )
    return experiment, SimpleNamespace(sources={"s2": SimpleNamespace(store=store)})


def test_a_class_beyond_those_of_the_objective():
    check_labels(*opened(values={"0": 9, "3": 1}))
    with pytest.raises(ValueError, match=r"stores/a: label 'cover' has class 4.*classes 1 to 3"):
        check_labels(*opened(values={"0": 9, "4": 1}))


@pytest.mark.parametrize("about", [{"values": None}, {}], ids=str)
def test_a_label_whose_classes_were_not_counted(about: dict):
    check_labels(*opened(**about))
