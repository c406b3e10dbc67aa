"""YAML with the line of every part, and small schemas."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml

from launch.check.plan import Plan

Path = tuple[Hashable, ...]
# A JobSet has 14 levels. PyYAML takes time with their square.
_MAX_DEPTH = 40


class Document:
    """A YAML document: `get("spec", "replicatedJobs", 0)` and the line of that part."""

    def __init__(self, text: str):
        """Raises ValueError if `text` is not one document, is deeply nested, or has aliases."""
        try:
            _check_structure(text)
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is None:
                raise ValueError("there is nothing but comments in it")
            self.value = loader.construct_document(node)
            self._lines = dict(_lines(loader, node, ()))
        except yaml.YAMLError as error:
            raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from error

    def get(self, *path: Hashable) -> Any:
        """The part at a path of keys and indices; None where there is none."""
        value = self.value
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def line(self, *path: Hashable) -> int:
        """Line of a part, or of the nearest one around it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def strings(self) -> Iterator[tuple[Path, str]]:
        """Path and text of every string."""
        for path in self._lines:
            if isinstance(value := self.get(*path), str):
                yield path, value


def _check_structure(text: str) -> None:
    """Raises ValueError where few lines would unfold to gigabytes, or take hours."""
    depth = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ValueError(f"line {line}: *{event.anchor} is an alias; write its parts out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            line = event.start_mark.line + 1
            raise ValueError(f"line {line}: more than {_MAX_DEPTH} levels")


def _lines(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    """(path, line) of a node and of all in it."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for inner, line in _lines(loader, value, (*path, loader.construct_object(key))):
                # a value may start on the line after its key
                yield inner, key.start_mark.line + 1 if len(inner) == len(path) + 1 else line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(loader, value, (*path, index))


def check_schema(plan: Plan, document: Document, schema: Any, path: Path = ()) -> None:
    """Adds findings for unknown fields and wrong types.

    Args:
        plan: gets the findings.
        document: to check.
        schema: {field: schema}, [schema of the items], or a type or types; object for anything.
        path: of the part that the schema is for.
    """
    value, line = document.get(*path), document.line(*path)
    name = ".".join(str(step) for step in path) or "the file"
    if isinstance(schema, Mapping):
        if not isinstance(value, dict):
            plan.expect(False, line, f"{name}: {value!r}; expected fields")
            return
        for field in value:
            if field in schema:
                check_schema(plan, document, schema[field], (*path, field))
                continue
            near = difflib.get_close_matches(str(field), list(schema), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            plan.expect(
                False, document.line(*path, field), f"{name}: {field} is not a field of it{hint}"
            )
    elif isinstance(schema, list):
        if not isinstance(value, list):
            plan.expect(False, line, f"{name}: {value!r}; expected a list")
            return
        for index in range(len(value)):
            check_schema(plan, document, schema[0], (*path, index))
    elif schema is not object:
        kinds = schema if isinstance(schema, tuple) else (schema,)
        plan.expect(
            type(value) in kinds,
            line,
            f"{name}: {value!r}; expected {' or '.join(kind.__name__ for kind in kinds)}",
        )
