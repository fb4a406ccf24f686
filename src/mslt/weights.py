"""Files of weights that others wrote: names, shapes and types are known before one is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# What weights may be of, as safetensors calls it.
NUMBERS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Given:
    """A tensor of a file.

    Args:
        shape: of it.
        dtype: as safetensors calls it.
        read: what gives it.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


@contextmanager
def opened_safetensors(file: Path) -> Iterator[dict[str, Given]]:
    """What a safetensors file holds, none of it read yet.

    Raises:
        ValueError: it is none.
    """
    try:
        with safe_open(file, "pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            yield {
                name: Given(
                    tuple(part.get_shape()), part.get_dtype(), partial(opened.get_tensor, name)
                )
                for name, part in parts.items()
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


@contextmanager
def unpickled_weights(file: Path) -> Iterator[dict[str, Given]]:
    """What a file of torch's holds, of which nothing but tensors is taken.

    Raises:
        ValueError: it holds more, or is damaged.
        OSError: it cannot be read.
    """
    with file.open("rb") as content:
        try:
            found = torch.load(content, map_location="cpu", weights_only=True)
        except Exception:  # zip, pickle and torch raise many kinds, some with unsafe advice
            raise ValueError(
                f"{file} cannot be read as weights alone: it is damaged, or holds "
                f"what would run as code if it were opened otherwise"
            ) from None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{file} holds something else than weights by their names")
    yield {
        str(name): Given(tuple(t.shape), NUMBERS.get(t.dtype, str(t.dtype)), t.detach)
        for name, t in found.items()
    }
