"""`portctl schema`: what editors know of the language agrees with what `portctl check` says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from portctl import document
from portctl.policy import validate
from portctl.policy.schema import schema
from portctl.problems import Problems

ROOT = Path(__file__).parent.parent
GOOD = sorted([*(ROOT / "policies").glob("*.yaml"), *(ROOT / "tests/golden").glob("*/policy.yaml")])
WRONG_SHAPE = (
    "bare-port",
    "block-entry",
    "missing-key",
    "netmask",
    "not-a-mapping",
    "reserved-name",
    "test-entry",
    "unknown-key",
    "unknown-version",
    "wrong-type",
    "wrong-value",
)


@pytest.fixture(scope="module")
def checker() -> Any:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def data_of(path: Path) -> Any:
    return document.read(path.read_bytes(), path.name).data


@pytest.mark.parametrize("path", GOOD, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_policies_fit_the_schema(path: Path, checker: Any) -> None:
    assert [error.message for error in checker.iter_errors(data_of(path))] == []


@pytest.mark.parametrize("case", WRONG_SHAPE)
def test_wrong_shapes_do_not(case: str, checker: Any) -> None:
    assert not checker.is_valid(data_of(ROOT / "tests/golden/errors" / case / "policy.yaml"))


def keys(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every key of every mapping that the schema describes, with what it says of it."""
    found = []
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            found.append((f"{path}/{name}", value))
            found += keys(value, f"{path}/{name}")
        for part in ("items", "additionalProperties", "anyOf"):
            found += keys(node.get(part), path)
    elif isinstance(node, list):
        for value in node:
            found += keys(value, path)
    return found


def test_each_key_is_explained_with_an_example() -> None:
    listed = [(path, value) for path, value in keys(schema()) if not path.endswith(("/file", "/may_be_empty", "/live"))]
    assert len(listed) > 80
    assert [path for path, value in listed if not value.get("description") or not value.get("examples")] == []


def test_each_example_fits_its_own_key_and_is_accepted(checker: Any) -> None:
    minimal: dict[str, Any] = {"portctl": 1, "name": "x"}
    for name, value in schema()["properties"].items():
        for example in value["examples"]:
            policy = minimal | {name: example}
            assert list(checker.iter_errors(policy)) == []
            read = document.read(json.dumps(policy), "p.yaml")
            try:
                validate(read)
            except Problems as error:  # pragma: no cover
                pytest.fail(f"{name}: {error}")


def test_entries_of_all_examples_together_are_accepted(checker: Any) -> None:
    for section in ("services", "egress", "forwards"):
        fields = schema()["properties"][section]["additionalProperties"]["properties"]
        for position in (0, -1):
            entry = {name: value["examples"][position] for name, value in fields.items()}
            policy = {"portctl": 1, "name": "x", section: {"a": entry}}
            assert [error.message for error in checker.iter_errors(policy)] == []
            validate(document.read(json.dumps(policy), "p.yaml"))


def test_the_command_prints_it() -> None:
    done = subprocess.run([sys.executable, "-m", "portctl", "schema"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(schema()))
