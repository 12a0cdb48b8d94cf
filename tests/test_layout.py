"""The layers of the packages: imports go down only, and importing has no side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# from the lowest layer to the highest; a layer imports from lower ones, not from its own
LAYERS = [
    {"config", "utils"},
    {"midi"},
    {"sequence"},
    {"corpus"},
    {"model"},
    {"training", "generation"},
    {"analysis"},
    {"web"},
    {"preprocess", "train", "generate"},
]
PROJECT = {"tools", "tests"}.union(*LAYERS)


def find_imports(name: str) -> set[str]:
    """Return the top-level names that the files of a package or module import."""
    package = ROOT / name
    paths = package.rglob("*.py") if package.is_dir() else [ROOT / f"{name}.py"]
    imports = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imports |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imports.add((node.module or "").split(".")[0])
    return imports


@pytest.mark.parametrize("level", range(len(LAYERS)))
def test_imports_go_down_only(level: int) -> None:
    lower = set().union(*LAYERS[:level])
    for name in LAYERS[level]:
        assert find_imports(name) & PROJECT <= lower | {name}


@pytest.mark.parametrize("name", ["config", "midi", "sequence"])
def test_no_torch_below_corpus(name: str) -> None:
    assert "torch" not in find_imports(name)


def test_importing_scripts_does_nothing(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import preprocess, train, generate"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("generate.py", "--help"), 0),
        (("generate.py", "-c", "C major;99"), 2),
        (("train.py", "--help"), 0),
        (("train.py", "--max-steps", "x"), 2),
        (("preprocess.py", "--help"), 0),
        (("preprocess.py", "--split", "3"), 2),
    ],
)
def test_help_and_argument_errors_do_not_import_torch(argv: tuple[str, ...], status: int) -> None:
    script, *options = argv
    command = [sys.executable, "-X", "importtime", ROOT / script, *options]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == status
    modules = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "argparse" in modules
    assert "torch" not in modules


@pytest.mark.parametrize("script", ["generate.py", "preprocess.py", "train.py"])
def test_parsing_arguments_uses_nothing_that_is_defined_later(script: str) -> None:
    source = (ROOT / script).read_text(encoding="utf-8")
    head, _, rest = source.partition('if __name__ == "__main__":\n    parse_args()')
    later = {node.name for node in ast.parse(rest.partition("\n")[2]).body if hasattr(node, "name")}
    used = {node.id for node in ast.walk(ast.parse(head)) if isinstance(node, ast.Name)}
    assert len(later) > 5
    assert not used & later
