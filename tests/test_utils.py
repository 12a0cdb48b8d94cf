"""Files found and written."""

from pathlib import Path

import pytest

import utils


def test_files_are_found_to_the_bottom_in_any_case_and_in_order(tmp_path: Path) -> None:
    for name in ("b/c.MID", "b/a.midi", "a.Kar", "z.txt", "b.mid.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = utils.find_files(tmp_path, (".mid", ".midi", ".kar"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.Kar",
        "b/a.midi",
        "b/c.MID",
    ]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(utils.find_files(tmp_path / "none", (".mid",)))


def test_a_missing_library_is_named_with_what_installs_it() -> None:
    with pytest.raises(ImportError, match=r"the moon needs cheese .*pip install cheese"):
        utils.optional("cheese.gouda", "the moon")


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    utils.atomic_write(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        utils.atomic_write(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    utils.atomic_write(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
