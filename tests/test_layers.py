"""The house has one direction: render <- pipeline <- training <- orchestration; and each package leaves out what it must not know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("render", "pipeline", "training", "orchestration")
UNKNOWN = {
    "render": {"ray", "torch", "mlflow", "webdataset", "pyarrow", "fsspec"},
    "pipeline": {"torch", "mlflow", "transformers"},
    "training": {"ray", "mlflow"},
    "orchestration": set[str](),
}


def imports(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_imports_only_from_those_before_it(package: str) -> None:
    forbidden = set(LAYERS[LAYERS.index(package) + 1 :]) | UNKNOWN[package]
    files = list((ROOT / package).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): imports(file) & forbidden for file in files}
    assert not {file: names for file, names in found.items() if names}


def test_the_help_needs_no_heavy_package() -> None:
    heavy = {"torch", "ray", "mlflow", "numba", "trimesh", "sklearn", "transformers", "pyarrow"}
    code = f"import sys, orchestration.cli; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
