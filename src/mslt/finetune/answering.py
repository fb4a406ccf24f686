"""Fine-tuned models that answer test sets."""

from pathlib import Path

from mslt import foreign
from mslt.data.tokenizer import given
from mslt.devices import pick_device
from mslt.finetune import glue, submission
from mslt.finetune.examples import encode
from mslt.finetune.grid import GRID
from mslt.finetune.loop import answers, predict
from mslt.finetune.model import read
from mslt.finetune.tasks import GLUE, Sentences


def submit(grid: Path, where: str, out: Path, *, fill: bool, device: str) -> None:
    """Write the zip of a grid's best models.

    Args:
        grid: folder of `mslt finetune`, with a model for each task.
        where: GLUE's folder, or `hf:NAME`.
        out: the zip.
        fill: answer what no model was trained for by a constant.
        device: as the command line has it.

    Raises:
        ValueError: a task has no model and is not filled, or a test set is not the official one.
        OSError: the disk is full or not writable.
    """
    lacking = [task.name for task in GLUE.values() if not (grid / task.name).is_dir()]
    if len(lacking) == len(GLUE):
        raise ValueError(f"{grid} has no task's model: it is no folder of mslt finetune")
    if lacking and not fill:
        raise ValueError(
            f"{grid} has no model of {', '.join(lacking)}: train them, or --fill true answers them "
            f"by a constant"
        )
    length = _length(grid / GRID)
    submission.make_room(out)
    files: dict[str, str] = {}
    for task in GLUE.values():
        if task.name in lacking:
            files |= {test.file: submission.fill(task, test) for test in task.test}
            print(f"{task.title}: no model; a constant", flush=True)
        else:
            folder, most = grid / task.name, length or task.length
            files |= _answered(folder, where, task, most, pick_device(device))
            print(f"{task.title}: answered", flush=True)
    submission.write(out, files)
    submission.check(out)
    print(f"wrote {out}: {len(files)} files, checked")


def _length(file: Path) -> int | None:
    """Tokens of an example, as the models were trained; None for the task's own.

    Raises:
        ValueError: the file does not say.
    """
    facts = foreign.read_json_object(file)
    foreign.require(facts, {"max_length": int | None}, str(file))
    return facts["max_length"]


def _answered(
    folder: Path, where: str, task: Sentences, length: int, device: str
) -> dict[str, str]:
    model, tokenizer = read(folder), given(folder)
    positions = model.config.max_position_embeddings
    if not 8 <= length <= positions:
        raise ValueError(f"{folder} has {positions} positions, and {GRID} examples of {length}")
    files = {}
    for test in task.test:
        examples = glue.read_test(where, task, test)
        said = answers(predict(model, encode(examples, tokenizer, length), device))
        files[test.file] = submission.to_file(task, said.tolist())
    return files
