"""What commands do on a full disk. `test_full_disk.py` runs this in a process of its own:

    python full_disk.py limit|tmpfs prepare|train FOLDER STORE

With `limit`, no file may grow beyond so many bytes (RLIMIT_FSIZE). With `tmpfs`, FOLDER is a small
disk of which another file leaves so many bytes. STORE is a token store on another disk.
"""

import io
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import yaml

from mslt.cli import main


class Disk:
    """A folder on a disk that can be filled."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.ballast = folder / ".ballast"
        self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill(self, free: int) -> None:
        """Leave room for so many bytes: in each file, or in all."""
        if self.kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (free, self.hard))
        else:
            disk = os.statvfs(self.folder)
            self.ballast.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - free)))

    def empty(self) -> None:
        """Leave room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.hard, self.hard))
        self.ballast.unlink(missing_ok=True)

    @contextmanager
    def full(self, free: int) -> Iterator[None]:
        """Be full in the block."""
        try:
            self.fill(free)
            yield
        finally:
            self.empty()

    def too_little(self, folder: Path, times: int = 4) -> list[int]:
        """Some amounts of room, none of them enough for what stands in a folder."""
        sizes = sorted(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if self.kind == "limit":
            return [0, *(size - 1 for size in sizes[:: -(len(sizes) // (times - 1))])]
        return [sum(sizes) * i // times for i in range(times)]

    def files(self) -> dict[Path, bytes]:
        """All that is on it."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in found if path != self.ballast}


def quietly(*words: str) -> tuple[int, str]:
    """The status of a command, and what it says on standard error."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
        status = main(words)
    return status, errors.getvalue()


def succeed(*words: str) -> None:
    """Run a command."""
    status, errors = quietly(*words)
    assert status == 0, errors


def refused(status: int, errors: str) -> None:
    """Be told in one line, which names a file."""
    assert status == 2, (status, errors)
    assert errors.startswith("mslt: /"), errors
    assert errors.count("\n") == 1, errors


def prepare(disk: Disk, _: Path) -> int:
    """Stores, shards and their merging. Returns how often the disk was full."""
    folder, times = disk.folder, 0
    text = "\n\n".join(f"This is number {i % 97}." for i in range(3000))
    (folder / "a.txt").write_text(text, encoding="utf-8")
    words = ["prepare", str(folder / "a.txt"), "--workers", "1"]
    succeed(*words, "--vocab_size", "200", "--out", str(folder / "store"))
    words += ["--tokenizer", str(folder / "store" / "tokenizer")]
    shard = [*words, "--shard", "1/1"]
    succeed(*shard, "--out", str(folder / "shard"))
    for command in (words, shard, ["prepare", "--merge", str(folder / "shard")]):
        before = disk.files()
        for free in disk.too_little(folder / ("shard" if command is shard else "store")):
            with disk.full(free):
                status, errors = quietly(*command, "--out", str(folder / "new"))
            refused(status, errors)
            assert disk.files() == before
            times += 1
        succeed(*command, "--out", str(folder / "new" / str(times)))
    return times


def train(disk: Disk, store: Path) -> int:
    """Checkpoints, and the export. Returns how often the disk was full."""
    from tiny_run import TINY

    from mslt import run as runs
    from mslt.checkpoint import verify_folder

    folder, times = disk.folder, 0
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY.to_dict()))
    words = ["pretrain", "--config", str(folder / "tiny.yaml"), "--data", str(store)]
    words += ["--keep", "8"]
    succeed(*words, "--out", str(folder / "unbroken"))
    runs.require_room = lambda *_: None  # another process takes the room that was found
    save = runs.Run.save
    checkpoint = folder / "unbroken" / "checkpoints" / "step-00000006"
    for free in disk.too_little(checkpoint, 2):

        def filling(self, state, free=free):
            if state.step == 6:
                self.wait()
                disk.fill(free)
            save(self, state)

        out, runs.Run.save = folder / f"run-{free}", filling
        refused(*quietly(*words, "--out", str(out)))
        disk.empty()
        runs.Run.save = save
        run = runs.Run.open(out)
        assert [path.name[-1] for path in run.checkpoints()] == list("12345")
        for path in [*run.checkpoints(), *run.stage_folders()]:
            verify_folder(path)
        succeed("pretrain", "--resume", "--out", str(out))
        last = Path("stages", "4-depth-4", "model.safetensors")
        assert (out / last).read_bytes() == (folder / "unbroken" / last).read_bytes()
        times += 1
    words = ["export", str(folder / "unbroken")]
    succeed(*words, "--out", str(folder / "exported"))
    before = disk.files()
    for free in disk.too_little(folder / "exported", 3):
        with disk.full(free):
            status, errors = quietly(*words, "--out", str(folder / "new"))
        refused(status, errors)
        assert disk.files() == before
        times += 1
    succeed(*words, "--out", str(folder / "new"))
    return times


if __name__ == "__main__":
    kind, what, folder, store = sys.argv[1:]
    print({"prepare": prepare, "train": train}[what](Disk(kind, Path(folder)), Path(store)))
