"""Folders appear whole or not at all, and sizes as people write them."""

import os
import subprocess
import sys

import pytest

from mslt.files import appearing, gigabytes


def test_a_folder_that_exists_is_never_touched(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine").touch()
    with (
        pytest.raises(ValueError, match=r"store exists: choose another --out"),
        appearing(tmp_path / "store"),
    ):
        pytest.fail("it was entered")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match="link exists"), appearing(tmp_path / "link"):
        pytest.fail("it was entered")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(28, "No space left")])
def test_what_fails_leaves_nothing_behind(tmp_path, error):
    path = tmp_path / "store"
    with pytest.raises(error if isinstance(error, type) else type(error)) as caught:
        half_write(path, error)
    assert list(tmp_path.iterdir()) == []
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)


def half_write(path, error):
    with appearing(path) as folder:
        assert folder.parent == path.parent
        (folder / "half").write_text("half")
        raise error


def test_missing_parents_are_made_and_the_folder_is_readable(tmp_path):
    with appearing(tmp_path / "a" / "b" / "store") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "a" / "b" / "store").exists()
    assert os.listdir(tmp_path / "a" / "b") == ["store"]
    assert (tmp_path / "a" / "b" / "store").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "store").mkdir()
    with appearing(tmp_path / "store") as folder:
        (folder / "file").write_text("whole")
    assert os.listdir(tmp_path / "store") == ["file"]


def test_what_is_replaced_stands_until_the_new_folder_is_whole(tmp_path):
    path = tmp_path / "store"
    for content in ("old", "new"):
        with appearing(path, replace=True) as folder:
            (folder / "file").write_text(content)
            assert not path.exists() or (path / "file").read_text() == "old"
    assert (path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["store"]


def test_a_failed_rename_brings_back_what_stood(tmp_path, monkeypatch):
    path = tmp_path / "store"
    with appearing(path) as folder:
        (folder / "file").write_text("old")
    rename = type(path).rename

    def failing(self, target):
        if self.name == ".store.tmp":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", failing)
    with pytest.raises(OSError, match="No space left"), appearing(path, replace=True) as folder:
        (folder / "file").write_text("new")
    assert (path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["store"]


def test_two_processes_do_not_make_the_same_folder(tmp_path):
    path = tmp_path / "store"
    with appearing(path) as folder:
        (folder / "file").write_text("first")
        with pytest.raises(ValueError, match="another process is writing it"), appearing(path):
            pytest.fail("it was entered")
    assert (path / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["store"]


def test_a_killed_process_lets_go_of_its_lock(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from mslt.files import appearing\n"
        "with appearing(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch()\n"
        "    os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "store"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert os.listdir(tmp_path) == [".store.tmp"]
    with appearing(path) as folder:
        (folder / "whole").touch()
    assert os.listdir(tmp_path) == ["store"]
    assert os.listdir(path) == ["whole"]


def test_what_a_kill_between_the_two_names_left_is_not_lost(tmp_path):
    path = tmp_path / "store"
    with appearing(path) as folder:
        (folder / "file").write_text("old")
    path.rename(tmp_path / ".store.old")
    with pytest.raises(KeyboardInterrupt), appearing(path, replace=True):
        raise KeyboardInterrupt
    assert (path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("size", "says"),
    [
        *((4e5, "0.4 MB"), (9.94e6, "9.9 MB"), (9.97e6, "10 MB"), (141e6, "141 MB")),
        *((999.4e6, "999 MB"), (999.6e6, "1.0 GB"), (9.97e9, "10 GB"), (1234e9, "1,234 GB")),
    ],
)
def test_sizes_are_as_people_write_them(size, says):
    assert gigabytes(size) == says
