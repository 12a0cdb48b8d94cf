"""The floors of the house: who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ("preprocess", "train", "generate")
# each module may import those before it that are named here, and no others of the project
FLOORS: dict[str, set[str]] = {
    "flags": set(),
    "config": {"flags"},
    "utils": set(),
    "quantise": set(),
    "encoding": {"quantise"},
    "notes": {"utils"},
    "render": {"utils"},
    "page": {"notes", "render", "utils"},
    "tensorfile": set(),
    "team": set(),
    "workers": set(),
    "sequence": {"encoding", "notes", "quantise"},
    "gru": set(),
    "model": {"config", "gru", "tensorfile", "utils"},
    "sampling": set(),
    "steering": set(),
    "player": {"model", "sampling", "steering", "utils"},
    "search": {"player", "sampling"},
    "stretch": {"quantise", "sequence"},
    "data": {"tensorfile", "sequence"},
    "windows": {"data", "sequence", "stretch"},
    "control": {"data", "sequence", "utils"},
    "adherence": {"control", "model", "player", "sampling", "sequence"},
    "composer": {
        *("config", "control", "model", "player", "sampling", "search", "sequence", "steering"),
    },
    "learner": {"model", "team", "utils", "windows"},
    "judge": {"data", "model", "sequence"},
    "board": {"config", "utils", "judge", "learner"},
    "run": {
        *("board", "config", "data", "judge", "learner", "model", "sequence", "team", "utils"),
        "windows",
    },
    "output": {
        *("adherence", "composer", "config", "flags", "page", "render", "sequence", "utils"),
    },
    "traits": {"config", "notes", "sequence"},
    "pieces": {"data", "sequence"},
    "split": {"config", "pieces", "utils"},
    "ledger": {"config", "data", "pieces", "split", "traits"},
    "chart": set(),
    "report": {"chart", "ledger", "sequence"},
    "preprocess": {
        *("config", "data", "flags", "ledger", "notes", "pieces", "report", "sequence", "split"),
        *("traits", "utils", "workers"),
    },
    "train": {
        *("adherence", "board", "config", "control", "data", "flags", "judge", "model"),
        *("player", "render", "run", "sequence", "team", "utils"),
    },
    "generate": {
        *("composer", "config", "control", "flags", "model", "output", "page", "render"),
        *("sequence", "utils"),
    },
}


def imports_of(name: str) -> set[str]:
    """The top names of all imports in a module, wherever in it they stand."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_arrows_point_down(name: str) -> None:
    assert imports_of(name) & set(FLOORS) <= FLOORS[name]


def test_options_need_only_the_standard_library() -> None:
    assert imports_of("config") | imports_of("flags") <= {*sys.stdlib_module_names, "flags"}


def test_the_network_knows_no_music_and_the_codec_no_network() -> None:
    assert not imports_of("model") & {"sequence", "pretty_midi", "symusic", "numpy"}
    assert "torch" not in imports_of("sequence") | imports_of("quantise") | imports_of("notes")


def test_importing_the_scripts_does_nothing(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(SCRIPTS)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_arguments_verb_and_main(name: str) -> None:
    tree = ast.parse((ROOT / f"{name}.py").read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"parse_args", "main", name} <= functions
    assert isinstance(tree.body[-1], ast.If)
