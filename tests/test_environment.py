"""environment.yml, pyproject.toml and the installed distributions agree."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _requirements(listed: list[str]) -> list[Requirement]:
    """Requirements of this platform, with ``hdmlib[extra]`` replaced by those of that extra."""
    here = []
    for requirement in map(Requirement, listed):
        if requirement.name == PROJECT["name"]:
            here += [r for extra in sorted(requirement.extras) for r in _requirements(EXTRAS[extra])]
        elif requirement.marker is None or requirement.marker.evaluate():
            here.append(requirement)
    return here


# What a test that is run by hand needs besides.
BY_HAND = {"playwright"}
DECLARED = _requirements([*PROJECT["dependencies"], "hdmlib[test]"])


def _pins() -> dict[str, Requirement]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return {r.name: r for r in _requirements([line for line in listed if not line.startswith("-e")])}


def test_the_core_is_torch_and_numpy():
    assert [Requirement(line).name for line in PROJECT["dependencies"]] == ["numpy", "torch"]
    assert not any(">" not in str(s) for line in PROJECT["dependencies"] for s in Requirement(line).specifier)


def test_the_test_extra_installs_every_other_extra():
    everything = {r.name for extra in EXTRAS for r in _requirements(EXTRAS[extra])}
    assert everything <= {r.name for r in DECLARED}


def _imported(folder: Path) -> set[str]:
    """Names of the distributions whose modules the files of a folder import."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    here = packages_distributions()
    ours = sys.stdlib_module_names | {"hdmlib", *(file.stem for file in folder.rglob("*.py"))}
    return {canonicalize_name(min(here.get(name, [name]))) for name in names - ours}


@pytest.mark.parametrize("folder", ["hdmlib", "tests", "notebooks"])
def test_every_imported_distribution_is_declared(folder):
    assert _imported(ROOT / folder) - BY_HAND <= {r.name for r in DECLARED}


def test_every_requirement_is_pinned_and_nothing_else_is():
    assert _pins().keys() == {r.name for r in DECLARED}


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_the_pin_is_exact_and_inside_the_range(requirement):
    (pin,) = _pins()[requirement.name].specifier
    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version)


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_the_installed_version_is_inside_the_range(requirement):
    installed = version(requirement.name)
    assert requirement.specifier.contains(installed, prereleases=True), installed
