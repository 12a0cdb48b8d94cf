"""The layering of the packages, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("preprocess", "train", "generate")
# each package or top-level module may import only those that stand in its row
LAYERS: dict[str, set[str]] = {
    "config": set(),
    "utils": set(),
    "midi": {"config", "utils"},
    "sequence": {"config", "utils", "midi"},
    "corpus": {"config", "utils", "midi", "sequence"},
    "model": {"config", "utils", "corpus"},
    "training": {"config", "utils", "midi", "sequence", "corpus", "model"},
    "web": {"config", "utils", "midi", "sequence", "corpus"},
    "generation": {"config", "utils", "midi", "sequence", "corpus", "model", "web"},
    "preprocess": {"config", "utils", "midi", "sequence", "corpus", "web"},
    "train": {"config", "utils", "midi", "sequence", "corpus", "model", "training", "generation"},
    "generate": {"config", "utils", "midi", "sequence", "corpus", "model", "generation", "web"},
}


def find_imports(path: Path) -> set[str]:
    """Return the first part of the name of every module that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_down(name: str) -> None:
    files = (ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else [ROOT / f"{name}.py"]
    imported = set().union(*map(find_imports, files))
    assert imported & {*LAYERS, "tools", "tests"} <= LAYERS[name] | {name}


def test_midi_and_sequence_do_not_need_torch() -> None:
    files = [*(ROOT / "midi").glob("*.py"), ROOT / "sequence.py", ROOT / "config.py"]
    assert not any("torch" in find_imports(path) for path in files)


def test_importing_the_scripts_does_nothing(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(SCRIPTS)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())
