"""environment.yml, pyproject.toml and what is installed tell the same story."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def _ranges() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] + [r for group in project["optional-dependencies"].values() for r in group]
    return {r.name.lower(): r for r in map(Requirement, listed)}


def _pins() -> dict[str, Requirement]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return {r.name.lower(): r for r in map(Requirement, [line for line in listed if line != "-e ."])}


def test_every_dependency_is_pinned_and_nothing_else_is():
    assert _pins().keys() == _ranges().keys()


@pytest.mark.parametrize("name", sorted(_ranges()))
def test_the_pin_is_exact_and_inside_the_range(name):
    (pin,) = _pins()[name].specifier
    assert pin.operator == "=="
    assert _ranges()[name].specifier.contains(pin.version)


@pytest.mark.parametrize("name", sorted(_ranges()))
def test_what_is_installed_is_inside_the_range(name):
    installed = version(name)
    assert _ranges()[name].specifier.contains(installed, prereleases=True), installed
