"""Imports point one way, as the layout of the project has it."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from data_prep.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("eo_jax", "data_prep", "configs", "launch", "benchmarks")

# What modules of eo_jax may import of eo_jax, by the longest prefix of their name; a prefix covers
# what is below it.
NOUNS = ("schema", "sensors")
MAY_IMPORT = {
    "schema": (),
    "sensors": ("schema", "sensors"),
    "rules": ("schema",),
    "data": (*NOUNS, "rules", "data"),
    "data.store": (*NOUNS, "data.store"),
    "augment": (*NOUNS, "rules", "augment"),
    "models": (*NOUNS, "rules", "models"),
    "objectives": ("schema", "rules", "models", "augment", "monitor.metric", "objectives"),
    "optim": ("schema", "rules", "optim"),
    "topology": (),
    "sharding": ("schema", "rules", "topology"),
    "peers": (),
    "lock": (),
    "distributed": ("peers",),
    "spikes": (),
    "fixed_step": ("rules",),
    "plan.memory": (),
    "plan.collectives": ("plan.program",),
    "plan.costs": ("plan.program",),
    "plan.program": (),
    "gradient": ("schema", "objectives.base"),
    "step": (
        "schema",
        "objectives.base",
        "objectives.features",
        "optim",
        "sharding",
        "spikes",
        "gradient",
        "fixed_step",
    ),
    "evaluators": (
        *NOUNS,
        "data",
        "objectives.base",
        "objectives.features",
        "monitor.metric",
        "monitor.rankme",
        "evaluation.protocol",
        "evaluation.reading",
        "evaluation.row",
        "evaluation.task",
        "evaluation.tokens",
        "evaluators",
    ),
    "checkpoint": ("schema", "rules", "cli", "checkpoint", "data.store.files"),
    "autotuning": (),
    "report.pictures": (*NOUNS,),
    "report.html_page": (),
    "report.composite": ("sensors",),
    "report.class_maps": ("report.pictures",),
    "monitor": ("schema", "monitor"),
    "monitor.metric": (),
}
# Libraries that only these modules may import.
ONLY_IN = {
    "orbax": ("eo_jax.checkpoint",),
    "grain": ("eo_jax.data",),
    "array_record": ("eo_jax.data",),
    "optax": ("eo_jax.optim", "eo_jax.step", "eo_jax.evaluation"),
    "torch": ("eo_jax.exchange.torch_file", "eo_jax.exchange.reading"),
    "jax._src": ("eo_jax.distributed",),
}
# Modules of eo_jax, and what they may import of data_prep.
READS_FILES_OF_USERS = {
    "eo_jax.embed.images": ("data_prep.archive", "data_prep.formats", "data_prep.reader"),
    "eo_jax.embed.command": ("data_prep.jobs.progress",),
}
DATA_PREP_MAY_IMPORT = (
    "eo_jax.sensors",
    "eo_jax.data",
    "eo_jax.schema",
    "eo_jax.report.pictures",
    "eo_jax.report.class_maps",
    "eo_jax.report.composite",
    "eo_jax.report.html_page",
    "data_prep",
)
# Rooms of data_prep, each with the rooms that it may import; everything else there is a command.
DATA_PREP_ROOMS = {
    "jobs": (),
    "simulation": (),
    "statistics": (),
    "archive": ("jobs",),
    "reader": ("archive",),
    "formats": ("archive", "reader"),
    "readers": ("archive", "reader", "formats"),
    "conversion": ("archive", "reader", "formats", "jobs", "statistics"),
    "inspection": ("statistics",),
}


@functools.cache
def modules() -> dict[str, Path]:
    """{"eo_jax.data.store.reader": path} of every Python file of the project."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: str) -> set[str]:
    """Dotted names that a source imports, anywhere in it; `from a import b` is a.b where that is a
    module of the project, else a.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {
                name if (name := f"{node.module}.{alias.name}") in modules() else node.module
                for alias in node.names
            }
    return found


@functools.cache
def imports(module: str) -> frozenset[str]:
    return frozenset(imports_of(modules()[module].read_text(encoding="utf-8")))


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the prefixes, or below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def below(*packages: str) -> list[str]:
    return [module for module in modules() if within(module, packages)]


def own(names: frozenset[str]) -> set[str]:
    """The names that are modules of the project."""
    return {name for name in names if within(name, PACKAGES)}


def everything_imported_by(starts: list[str]) -> dict[str, str]:
    """{module: one that imports it} for every module that the starts import, also indirectly."""
    reached, waiting = {start: start for start in starts}, list(starts)
    while waiting:
        module = waiting.pop()
        for name in own(imports(module)) & modules().keys():
            if name not in reached:
                reached[name] = module
                waiting.append(name)
    return reached


def test_the_scan_sees_every_form_of_import():
    source = (
        "import jax.numpy as jnp\nfrom eo_jax import rules\nfrom eo_jax.schema import Sample\ndef "
        "f():\n    if 1:\n        import torch, os\n"
    )
    assert imports_of(source) == {"jax.numpy", "eo_jax.rules", "eo_jax.schema", "torch", "os"}
    assert within("jax.numpy", ("jax",)) and not within("jaxtyping", ("jax",))
    assert {
        "eo_jax.train",
        "eo_jax.data",
        "eo_jax.data.store.reader",
        "data_prep.convert",
    } <= modules().keys()


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_directions_within_eo_jax(part: str):
    members, allowed = below(f"eo_jax.{part}"), tuple(f"eo_jax.{name}" for name in MAY_IMPORT[part])
    assert members
    wrong = {
        module: sorted(name for name in own(imports(module)) if not within(name, allowed))
        for module in members
    }
    assert {module: names for module, names in wrong.items() if names} == {}


@pytest.mark.parametrize("command", ["eo_jax.train", "eo_jax.doctor"])
def test_nobody_imports_what_imports_everything(command: str):
    """But for benchmarks, which measure commands in their own process."""
    assert command in modules()
    others = [module for module in modules() if not within(module, ("benchmarks",))]
    assert [module for module in others if command in imports(module)] == []


def test_eo_jax_does_not_import_what_stands_beside_it():
    """But for the command that reads GeoTIFFs by the rules of the conversion."""
    beside = tuple(package for package in PACKAGES if package not in ("eo_jax", "configs"))
    users = {
        module: sorted(name for name in imports(module) if within(name, (*beside, "tests")))
        for module in below("eo_jax")
    }
    users = {module: names for module, names in users.items() if names}
    assert users.keys() == set(READS_FILES_OF_USERS)
    for module, names in users.items():
        assert [name for name in names if not within(name, READS_FILES_OF_USERS[module])] == []


def test_only_the_command_imports_its_package():
    importing = [
        module
        for module in modules()
        if not within(module, ("eo_jax.embed",))
        and any(within(name, ("eo_jax.embed",)) for name in imports(module))
    ]
    assert importing == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_are_imported_in_one_place(library: str):
    users = [
        module
        for module in below("eo_jax", "data_prep", "configs")
        if any(within(name, (library,)) for name in imports(module))
    ]
    assert users
    assert [module for module in users if not within(module, ONLY_IN[library])] == []


@pytest.mark.parametrize(
    "part", ["eo_jax.data", "eo_jax.schema", "eo_jax.sensors", "eo_jax.load", "data_prep"]
)
def test_data_and_exported_weights_need_no_jax(part: str):
    """Neither these modules nor any module of the project that they import, directly or not."""
    reached = everything_imported_by(below(part))
    users = {
        module: by
        for module, by in reached.items()
        if any(within(name, ("jax", "flax")) for name in imports(module))
    }
    assert users == {}


def test_data_prep_imports_only_what_describes_and_stores_data():
    wrong = {
        module: sorted(
            name for name in own(imports(module)) if not within(name, DATA_PREP_MAY_IMPORT)
        )
        for module in below("data_prep")
    }
    assert {module: names for module, names in wrong.items() if names} == {}


@pytest.mark.parametrize("room", DATA_PREP_ROOMS)
def test_directions_within_data_prep(room: str):
    members = below(f"data_prep.{room}")
    allowed = tuple(f"data_prep.{name}" for name in (room, *DATA_PREP_ROOMS[room]))
    assert members
    wrong = {
        module: sorted(
            name
            for name in imports(module)
            if within(name, ("data_prep",)) and not within(name, allowed)
        )
        for module in members
    }
    assert {module: names for module, names in wrong.items() if names} == {}


def test_rooms_of_data_prep_are_listed_in_the_order_of_their_imports():
    """So there is no circle between them."""
    rooms = list(DATA_PREP_ROOMS)
    for number, room in enumerate(rooms):
        assert set(DATA_PREP_ROOMS[room]) <= set(rooms[:number])


def test_nothing_imports_a_command_of_data_prep():
    rooms = tuple(f"data_prep.{room}" for room in DATA_PREP_ROOMS)
    commands = {
        module
        for module in below("data_prep")
        if module != "data_prep" and not within(module, rooms)
    }
    assert {f"data_prep.{name}" for name in COMMANDS} < commands
    assert [module for module in below("data_prep", "eo_jax") if imports(module) & commands] == []


def test_no_reader_imports_another():
    """Modules that begin with an underscore are what they share."""
    readers = {
        module
        for module in below("data_prep.readers")
        if module.count(".") == 2 and not module.rpartition(".")[2].startswith("_")
    }
    assert readers
    assert [module for module in below("data_prep.readers") if imports(module) & readers] == []


def test_no_module_imports_itself_in_a_circle():
    for module in modules():
        # A package's __init__ may gather its own modules; Python runs it before them anyway.
        targets = [
            name
            for name in own(imports(module)) & modules().keys()
            if name != module and not within(module, (name,))
        ]
        assert module not in everything_imported_by(targets), f"{module} imports itself in a circle"
