"""What importing costs and needs: a light command line, and no package that the project does not ask for."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("apps", "data", "hitl", "reward_models", "rl")
HEAVY = {
    "accelerate",
    "diffusers",
    "duckdb",
    "fastapi",
    "gradio",
    "matplotlib",
    "numpy",
    "open_clip",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
}

_RUN_AND_LIST_MODULES = """
import json, sys
from hitl.cli import main
sys.argv = ["hitl", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
print()
print(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["round", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-c", _RUN_AND_LIST_MODULES, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["code"] == 0, run.stderr
    assert HEAVY.isdisjoint(last["modules"])


_IMPORT_THE_HUB = """
import importlib, json, pkgutil, sys
for name in "apps data hitl.core hitl.config hitl.report hitl.worker hitl.rounds hitl.commands hitl.cli".split():
    module = importlib.import_module(name)
    for _, inner, _ in pkgutil.walk_packages(getattr(module, "__path__", ()), name + "."):
        importlib.import_module(inner)
print(json.dumps(sorted(sys.modules)))
"""


def test_the_process_that_answers_people_loads_no_torch(tmp_path: Path):
    """import-linter sees who imports torch directly; this sees what arrives by way of others, gradio included."""
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT_THE_HUB], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert {"torch", "diffusers", "transformers", "open_clip"}.isdisjoint(json.loads(run.stdout.splitlines()[-1]))


def _imported(package: str) -> dict[str, str]:
    """Top-level modules that the files of a package import, also inside functions, each with one place that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                found.setdefault(name.partition(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _distribution(requirement: str) -> str:
    return _normal(re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_a_declared_dependency(package: str):
    """A package that only a developer's environment has breaks the first user's installation, not our tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {_distribution(requirement) for requirement in project["dependencies"]}
    distributions = packages_distributions()
    undeclared = {
        module: place
        for module, place in _imported(package).items()
        if module not in sys.stdlib_module_names
        and module not in PACKAGES
        and declared.isdisjoint(map(_normal, distributions.get(module, [])))
    }
    assert not undeclared
