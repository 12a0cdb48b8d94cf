"""The README and the pages of docs/: links, length, and commands that run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import generate
import preprocess
import train
from config import LEGACY_RECIPE
from model import PerformanceRNN, Session
from sequence import CURRENT
from tools import docs
from tools.faults import FAULTS
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_midi

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
WRITTEN_PAGES = [page for page in PAGES if page.name != "cli.md"]  # that one is generated
SCRIPTS = {f"{module.__name__}.py": module for module in (preprocess, train, generate)}
OTHER_PROGRAMS = {"--nproc_per_node", "--logdir"}  # options of torchrun and tensorboard


def read_prose(path: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def read_shell_blocks(path: Path) -> list[str]:
    """Return the blocks of a page that are marked as shell commands."""
    return re.findall(r"^```sh\n(.*?)^```$", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def read_commands(path: Path) -> list[list[str]]:
    """Return the words of each call of one of the scripts in the shell blocks of a page."""
    lines = "".join(read_shell_blocks(path)).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[0] == "python3" and line[1] in SCRIPTS]


def find_links(path: Path) -> list[str]:
    """Return the targets of all links of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", read_prose(path))


def list_anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, made as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", read_prose(path), flags=re.MULTILINE)
    texts = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {text.replace(" ", "-") for text in texts}


def read_control_examples() -> list[str]:
    """Return the quoted controls in the README's table of controls."""
    section = README.read_text().partition("## Controls")[2].partition("\n## ")[0]
    rows = [line.replace(r"\|", "\0").split("|")[1] for line in section.splitlines() if "|" in line]
    return [text.replace("\0", "|") for row in rows for text in re.findall(r"`'(.*?)'`", row)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for link in find_links(page):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in list_anchors(target), link


def test_readme_links_to_every_page() -> None:
    links = set(find_links(README))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= links
    assert {"docs/player.html", "docs/sample-2.png", "LICENSE"} <= links


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200
    for line in read_prose(README).splitlines():
        text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        assert line.startswith("|") or len(text) <= 100, line


def test_cli_page_is_current() -> None:
    assert docs.CLI_PAGE.read_text() == docs.format_cli_page(), "run python3 -m tools.docs cli"


def test_setup_commands_are_single_lines() -> None:
    setup = [block for block in read_shell_blocks(README) if "-m venv .venv &&" in block]
    assert [block.count("\n") for block in setup] == [1, 1]
    generate_line, test_line = setup
    assert "-r requirements.txt && .venv/bin/python generate.py" in generate_line
    assert test_line.endswith(".venv/bin/python -m pytest\n")  # .ci/run runs this line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_use_options_that_exist(page: Path) -> None:
    for script, *argv in read_commands(page):
        SCRIPTS[script].parse_args(argv)  # exits if it is wrong


@pytest.mark.parametrize("page", WRITTEN_PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page: Path) -> None:
    code = re.findall(r"`[^`]*`", read_prose(page))
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(code)))
    options -= OTHER_PROGRAMS
    sources = [ROOT / name for name in SCRIPTS] + list((ROOT / "tools").glob("*.py"))
    sources.append(ROOT / "utils.py")  # the options of all scripts
    text = "\n".join(source.read_text() for source in sources)
    defined = set(re.findall(r'"(--[a-z][\w-]*)"', text)) | {"--help", "--version"}
    assert not {o for o in options if not defined & {o, o.replace("--no-", "--", 1)}}


@pytest.mark.parametrize("text", read_control_examples())
def test_control_examples_are_understood(text: str) -> None:
    generate.parse_args(["-c", text])  # exits if it is wrong


def test_compatibility_page_has_the_recipe_of_the_original() -> None:
    commands = read_commands(ROOT / "docs" / "compatibility.md")
    (recipe,) = [argv for script, *argv in commands if "--weight-decay" in argv]
    assert recipe == shlex.split(LEGACY_RECIPE)
    assert train.parse_args(recipe).small_batches == 0


def test_architecture_lists_every_module() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text()
    packages = ("midi", "corpus", "training", "generation", "web")
    modules = [*ROOT.glob("*.py"), *(m for p in packages for m in (ROOT / p).glob("[!_]*.py"))]
    assert not [m.name for m in modules if not re.search(rf"^ *{m.name} ", tree, re.MULTILINE)]


def test_robustness_page_lists_every_fault() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(FAULTS)


SMALL = {  # options added to the README's commands, so that they take seconds
    "preprocess.py": "2",
    "train.py": f"--max-steps 2 -b 2 -w 16 --precision fp32 --no-enable-logging -p {TINY_MODEL}",
    "generate.py": "-b 1 -l 60",
}


def shrink_command(words: list[str]) -> list[str]:
    """Return a command of the README with options that make it small."""
    script, *argv = words
    if script == "preprocess.py":
        return [script, "dataset/midi", "dataset/processed", SMALL[script], *argv]
    return [script, *argv, *shlex.split(SMALL[script])]


def list_training_commands() -> list[list[str]]:
    """Return the commands of "Train on your own files", made small."""
    typed = [words for words in read_commands(README) if "--tune" not in words]  # has its own test
    commands = [shrink_command(words) for words in typed]
    scripts = " ".join(words[0] for words in commands)
    assert scripts == "preprocess.py train.py train.py generate.py"
    return commands


def write_collection(folder: Path) -> None:
    """Write ten short pieces, which a split by piece spreads over its three subsets."""
    for seed in range(10):
        write_midi(folder / "dataset" / "midi" / f"{seed}.mid", 40, seed)


def check_training_results(folder: Path) -> None:
    """Check the files that the commands of "Train on your own files" leave."""
    assert (folder / "model.sess").is_file()
    (sample,) = (folder / "generated").glob("*.mid")
    assert sample.read_bytes().startswith(b"MThd")
    assert sample.name in (folder / "generated" / "index.html").read_text()


def test_training_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_collection(tmp_path)
    (tmp_path / "generated").mkdir()
    monkeypatch.chdir(tmp_path)
    for script, *argv in list_training_commands():
        assert SCRIPTS[script].main(argv) == 0
    check_training_results(tmp_path)


def test_generate_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "generated").mkdir()
    monkeypatch.chdir(tmp_path)
    network = PerformanceRNN(TINY_SIZES).init_weights()
    Session(TINY_SIZES, network.state_dict(), CURRENT.version).save("tiny.sess")
    (line,) = re.findall(r"^.*bin/python generate\.py (-c .*)$", README.read_text(), re.MULTILINE)
    argv = shlex.split(line)
    assert generate.main([*argv, "-s", "tiny.sess", "-b", "1", "-l", "60"]) == 0
    suffixes = {path.suffix for path in (tmp_path / "generated").iterdir()}
    assert suffixes == {".mid", ".png", ".wav"}


@pytest.mark.slow
def test_training_commands_run_in_a_copy(tmp_path: Path) -> None:
    """The same as typed: a copy of the repository, a shell, one process for each command."""
    unused = shutil.ignore_patterns(".*", "*.sess", "dataset", "docs", "generated", "runs", "tests")
    folder = tmp_path / "copy"
    shutil.copytree(ROOT, folder, ignore=unused)
    write_collection(folder)
    commands = [shlex.join([sys.executable, *words]) for words in list_training_commands()]
    subprocess.run(
        ["/bin/bash", "-euxc", "\n".join(commands)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    check_training_results(folder)


def test_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("docs", "pretrained.sess"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    kinds = ["<NoteSeq:", "<EventSeq:", "<ControlSeq:", "<Session:"]
    assert [line.split()[0] for line in lines[:4]] == kinds
    assert 1 < float(lines[4].split()[0]) < 3
    assert Path("copy.mid").read_bytes()[:4] == Path("sample.mid").read_bytes()[:4] == b"MThd"
