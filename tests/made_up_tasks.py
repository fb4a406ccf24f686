"""Small data of tasks that a small model can learn."""

import random
from pathlib import Path

from mslt.data import tokenizer as tokenizers
from mslt.finetune.tasks import Sentences


def write_task(glue: Path, task: Sentences, words: list[str], rows: int = 48) -> None:
    """A task's official files: the first text is one word four times, which tells the answer."""
    folder = glue / task.folder
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(task.name)
    for split in ("train", *task.dev):
        headings = task.headings or ("index", *task.fields, task.label)
        lines = [] if task.headings else ["\t".join(headings)]
        for number in range(rows):
            answer = number % (len(task.labels) or 6)
            text = {name: " ".join(draw.choices(words[6:], k=2)) for name in task.fields}
            text[task.fields[0]] = " ".join([words[answer]] * 4)
            text[task.label] = task.labels[answer] if task.labels else f"{answer:.3f}"
            lines.append("\t".join(text.get(name, str(number)) for name in headings))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def words_of(folder: Path) -> list[str]:
    """Pieces of a tokenizer that are whole words."""
    pieces = tokenizers.given(folder).get_vocab()
    return sorted(p for p in pieces if p.isalpha())
