"""Who may import whom, and what ``import vq`` may cost."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import types
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vq"
HEAVY = ("transformers", "lightning", "sklearn", "faiss", "accelerate", "matplotlib")
ALLOWED = {
    "kernels": set(),
    "codebooks": {"kernels"},
    "quantizers": {"codebooks"},
    "compressors": {"codebooks", "quantizers", "kernels"},
    "tokenizers": {"codebooks", "quantizers"},
    "analysis": {"codebooks"},
    "cli": {"codebooks", "quantizers", "compressors", "tokenizers", "kernels", "analysis"},
}
EVERYWHERE = {"errors", "_data_files", "_files", "_lazy", "__version__"}


def imports_of(path: Path) -> set[str]:
    """Parts of vq that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("vq.")}
    return found


def test_a_forbidden_import_would_be_seen(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "from vq import tokenizers\ndef f():\n    import vq.cli.main\n    from vq.kernels.a import b\n"
    )
    assert imports_of(path) == {"tokenizers", "cli", "kernels"}


@pytest.mark.parametrize(
    "part", sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists())
)
def test_who_may_import_whom(part):
    for path in (PACKAGE / part).rglob("*.py"):
        wrong = imports_of(path) - ALLOWED[part] - EVERYWHERE - {part}
        assert not wrong, f"{path.relative_to(ROOT)} imports vq.{', vq.'.join(sorted(wrong))}"


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import vq",
        "import vq.codebooks",
        "import vq.compressors",
        "import vq.analysis",
        "import vq.cli.main",
    ],
)
def test_imports_are_light(statement):
    found = python(f"{statement}, sys; print(*(m for m in {HEAVY!r} if m in sys.modules))")
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []


def test_import_vq_needs_no_torch():
    found = python("import vq, sys; print('torch' in sys.modules)")
    assert found.stdout.split() == ["False"], found.stderr


@pytest.mark.hf
def test_transformers_imports_in_the_repository_root():
    """Folders named tokenizers and kernels stand there; packages of these names belong to others."""
    pytest.importorskip("transformers")
    found = python("from transformers import LlamaForCausalLM; print(LlamaForCausalLM.__name__)")
    assert found.stdout.split() == ["LlamaForCausalLM"], found.stderr


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_no_script_hides_a_package(folder):
    """A script's folder comes first in ``sys.path``, so it would be imported in the package's place."""
    scripts = {path.stem for path in (ROOT / folder).glob("*.py")}
    assert scripts and scripts & packages_distributions().keys() == set()


def test_root_folders_hold_no_python_package():
    for name in ("codebooks", "tokenizers", "compressors", "kernels"):
        assert not list((ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("package", ["vq", "vq.compressors", "vq.analysis"])
def test_public_names_exist(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None and name in dir(module)
        assert not isinstance(getattr(module, name), types.ModuleType), "hidden by a module"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing
