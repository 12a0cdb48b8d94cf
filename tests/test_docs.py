"""The README says what the code does."""

import dataclasses
from pathlib import Path

import pytest

from config import FETCH_COMMAND, GenerateConfig, PreprocessConfig, TrainConfig
from flags import told_default

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def row(entry: dataclasses.Field) -> str:
    """The line of the table of flags for an option."""
    flags = ", ".join(f"`{flag}`" for flag in entry.metadata["flags"]) or f"`{entry.name.upper()}`"
    default = told_default(entry)
    return f"| {flags} | {f'`{default}`' if default else ''} | {entry.metadata['help']} |"


@pytest.mark.parametrize("kind", [PreprocessConfig, TrainConfig, GenerateConfig])
def test_every_flag_stands_in_the_readme_with_its_default(kind: type) -> None:
    missing = [row(entry) for entry in dataclasses.fields(kind) if row(entry) not in README]
    assert not missing, "\n".join(missing)


def test_the_tree_in_the_readme_is_the_tree() -> None:
    for path in ROOT.glob("*.py"):
        assert f"\n{path.name} " in README


def test_what_the_readme_links_to_is_there() -> None:
    for part in README.split("](")[1:]:
        assert (ROOT / part.split(")")[0]).exists()
    assert FETCH_COMMAND in README
    assert (ROOT / "dataset" / "scripts" / "maestro_scraper.sh").exists()
