"""Tests of `eo_jax.doctor`: from rates to the right verdict and advice, and one real
measurement.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import golden_text
import mixed_run
import ml_collections
import pytest
from tiny_run import CONFIG, overrides

from eo_jax import cli, doctor
from eo_jax.doctor import Rates, Setup

LAPTOP = Setup(
    on_cpu=True,
    threads=2,
    crop=32,
    size=32,
    stores={"enmap": ("zarr-raw", 32)},
    dtype="float32",
    mfu=None,
)
GPU = dataclasses.replace(LAPTOP, on_cpu=False, dtype="bfloat16", mfu=0.45)
PACKED = {"enmap": ("array-record", 128)}


# --- verdicts


@pytest.mark.parametrize(
    ("rates", "bound"),
    [
        (Rates(loader=10, step=100, together=9.5), "data"),
        (Rates(loader=10, step=12.6, together=9), "data"),
        (Rates(loader=10, step=12.4, together=9), "balanced"),
        (Rates(loader=12.4, step=10, together=9), "balanced"),
        (Rates(loader=12.6, step=10, together=9), "compute"),
        (Rates(loader=500, step=10, together=10), "compute"),
        (Rates(loader=10, step=100, together=7.4), "contention"),
        (Rates(loader=100, step=10, together=7.4), "contention"),
        (Rates(loader=10, step=10, together=5), "contention"),
    ],
)
def test_what_a_run_is_bound_by(rates, bound):
    assert doctor.bound_by(rates) == bound
    assert doctor.verdict(rates).startswith(bound)
    assert doctor.advice(dataclasses.replace(rates, more_threads=rates.loader), LAPTOP)


def test_verdicts_have_the_figures():
    assert (
        "the step could take 100 batches/s, the loader gives 10; the device waits 90% of the time"
        in doctor.verdict(Rates(10, 100, 10))
    )
    assert (
        "4.0 times what the step takes; it could be 75% slower before that mattered"
        in doctor.verdict(Rates(40, 10, 10))
    )
    assert "0.90 times what the step takes" in doctor.verdict(Rates(9, 10, 9))


def test_taking_turns_is_told_from_less_than_that():
    assert doctor.verdict(Rates(10, 10, 5)).endswith("slow each other down, as if they took turns")
    assert doctor.verdict(Rates(10, 10, 3)).endswith(
        "slow each other down, slower than if they took turns"
    )


# --- advice


def data_bound(more_threads: float, **setup) -> list[str]:
    return doctor.advice(Rates(10, 40, 10, more_threads), dataclasses.replace(GPU, **setup))


def test_more_threads_are_advised_as_far_as_they_were_measured_to_help():
    assert (
        data_bound(20)[0]
        == "config.data.threads=4: the loader ran at 2.00 times the rate, 50% of what the step "
        "takes"
    )
    assert (
        data_bound(44)[0]
        == "config.data.threads=4: the loader ran at 4.40 times the rate, enough for the step"
    )
    assert data_bound(11)[0].startswith(
        "more threads do not help: with config.data.threads=4 the loader ran at 1.10 times the rate"
    )


def test_a_store_that_has_to_be_decoded_is_named_with_what_the_crop_keeps():
    line = data_bound(10, stores={"s1": ("zarr-raw", 128), **PACKED})[1]
    assert line.startswith(
        "source 'enmap' is stored as array-record: whole patches are decoded, of which a crop of "
        "32 px keeps 6.2%."
    )
    assert "--format zarr-raw" in line
    (line,) = data_bound(10, stores={"enmap": ("zarr", 32)})[1:]
    assert line.startswith("source 'enmap' is stored as zarr: whole patches are decoded. Convert")


def test_a_crop_larger_than_the_views_is_named():
    (line,) = data_bound(10, crop=96)[1:]
    assert line == (
        "config.data.crop=32: the views are 32 px, a crop of 96 px transfers 9.0 times their pixels"
    )


def test_where_nothing_is_left_to_save_it_says_so():
    assert data_bound(10)[1:] == [
        "stores and crop cannot get cheaper; use a faster disk or more cores"
    ]


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (LAPTOP, ["an accelerator"]),
        (GPU, ["MFU of the step alone is 45.0%"]),
        (
            dataclasses.replace(GPU, mfu=0.1),
            ["MFU of the step alone is 10.0%", "larger config.data.batch_size"],
        ),
        (dataclasses.replace(GPU, dtype="float32"), ["MFU", "config.model.dtype=bfloat16"]),
        (dataclasses.replace(GPU, mfu=None), ["larger config.data.batch_size"]),
    ],
)
def test_compute_bound_advice_fits_the_device(setup, words):
    lines = doctor.advice(Rates(40, 10, 10), setup)
    assert len(lines) == len(words) and all(
        word in line for word, line in zip(words, lines, strict=True)
    )


def test_contention_is_the_cores_on_a_cpu_and_the_transfer_elsewhere():
    rates = Rates(10, 10, 5)
    cores = doctor.advice(rates, dataclasses.replace(LAPTOP, stores=PACKED))
    assert (
        "share the cores" in cores[0]
        and cores[1].startswith("config.data.threads=1: fewer")
        and "--format zarr-raw" in cores[2]
    )
    assert not any(
        "threads=0" in line for line in doctor.advice(rates, dataclasses.replace(LAPTOP, threads=1))
    )
    assert "config.sharding.prefetch" in doctor.advice(rates, GPU)[0]


# --- mixtures


@pytest.mark.slow
def test_a_mixture_is_measured_in_its_proportions(tiny_store):
    config, said = mixed_run.config_of(tiny_store, tiny_store, tiny_store, **{"data.crop": 8}), []
    with mixed_run.training_the_mixture():
        rates, setup, batch_bytes = doctor.examine(config, 0.1, said.append)
    patch = 4 * 202 * 8 * 8 * 2
    assert batch_bytes / patch == pytest.approx(
        2 / 3 * 4 + 1 / 3 * 1, rel=0.01
    )  # two dates of two sources, or one of one
    assert min(rates.loader, rates.step, rates.together) > 0
    assert setup.stores.keys() == {"s1", "s2", "x"}


# --- which stores


def sources() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({name: {"store": "stores/demo"} for name in ("s1", "s2")})


def test_one_store_is_that_of_every_source_and_a_named_one_goes_before_it():
    found = sources()
    doctor.override_stores(found, ["a"], ["s2=b=c"])
    assert {name: source.store for name, source in found.items()} == {"s1": "a", "s2": "b=c"}


@pytest.mark.parametrize("item", ["s3=a", "s1", "s1=", "=a"])
def test_a_store_of_no_source_is_refused(item):
    with pytest.raises(
        ValueError,
        match=re.escape(f"--store={item}: expected SOURCE=PATH with SOURCE one of s1, s2"),
    ):
        doctor.override_stores(sources(), [], [item])


# --- the command


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `python -m eo_jax.doctor` with these arguments, in this process; gives exit code, output
    and errors.
    """
    monkeypatch.chdir(golden_text.ROOT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.run(doctor.main)
        return stopped.value.code, *capsys.readouterr()

    return run


def test_it_measures_and_gives_a_verdict(command, tiny_store, tmp_path):
    file = tmp_path / "doctor.json"
    code, output, error = command(
        str(tiny_store), f"--config={CONFIG}", "--seconds=0.1", f"--json={file}", *overrides()
    )
    assert (code, error) == (0, "")
    assert all(
        re.search(rf"{title} +│ +\d+\.\d\d │", output)
        for title in ("loader alone, threads=2", "step alone", "both, as in training")
    )
    ending = output.rpartition("┘\n")[2].splitlines()
    assert ending[0].startswith(("data-bound: ", "compute-bound: ", "balanced: ", "contention: "))
    assert len(ending) > 1 and all(line.startswith("  - ") for line in ending[1:])
    measured = json.loads(file.read_text())
    rate = re.search(r"loader alone, threads=2 +│ +([\d.]+) │ +([\d.]+) │", output)
    assert measured["loader_samples_per_s"] == pytest.approx(float(rate[2]), abs=0.1)
    assert measured["batch_size"] == 4 and measured["bound_by"] in ending[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config=configs/FILE.py[:variant] must be given"),
        (
            ("a", "b", f"--config={CONFIG}"),
            "2 stores (a, b), expected one for all sources; give others as --store=SOURCE=PATH",
        ),
        (("no/such", f"--config={CONFIG}"), "no/such: no such store"),
        (("--config=configs/none.py",), "configs/none.py"),
        (("--config=configs/mae_demo.py:none",), "configs/mae_demo.py: no variant 'none'"),
        ((f"--config={CONFIG}", "--config.data.thread=1"), "Did you mean 'threads'"),
        ((f"--config={CONFIG}", "--seconds=0"), "--seconds=0"),
    ],
)
def test_a_mistake_is_one_line(command, arguments, message):
    code, _, error = command(*arguments)
    assert code == 1 and message in error
    assert error.startswith("error: ") and len(error.splitlines()) == 1


def test_help_shows_examples_and_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["doctor", "--help"])
    assert doctor.main() == 0
    output = capsys.readouterr().out
    assert "python -m eo_jax.doctor stores/demo --config=configs/mae_demo.py" in output
    assert all(f"--{flag}" in output for flag in ("config", "store", "seconds"))
