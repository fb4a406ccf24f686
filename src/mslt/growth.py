"""Growing and freezing: what one stage of a plan does to the model (section 3.2)."""

import copy
from collections.abc import Iterator

from torch import nn

from mslt.model import Encoder


def grow(model: Encoder, to: int) -> Encoder:
    """A model of `to` layers whose new top layers are copies of the topmost ones.

    From n to m layers, the top m-n layers are copied above themselves: this is the growth of
    multi-stage layerwise training and, for m = 2n, that of progressive stacking (section 3.2:
    "copying the parameters of the top N/k layers"). The given model stays as it is; the two share
    no memory.

    Raises:
        ValueError: a depth that is not above today's, or more than twice it, or above the config's;
            or a part of a block whose weights several layers share.
    """
    config, depth = model.config, model.depth
    if not depth < to <= min(2 * depth, config.num_hidden_layers):
        raise ValueError(
            f"a model of {depth} layers grows to at most {2 * depth} layers, and to the "
            f"config's {config.num_hidden_layers}, not to {to}"
        )
    grown = copy.deepcopy(model)
    for source in model.blocks[-config.blocks(to - depth) :]:
        grown.blocks.append(copy.deepcopy(source))
    return grown


def copied_from(name: str, depth: int, to: int, repeat: int = 1) -> str | None:
    """The tensor that a new layer's tensor was copied from when `depth` layers grew to `to`.

    None for a tensor that was there before. `repeat` layers in a row share a block of weights.
    """
    depth, to = depth // repeat, to // repeat
    prefix, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    if prefix != "blocks" or int(number) < depth:
        return None
    return f"blocks.{int(number) - (to - depth)}.{rest}"


def is_fixed(name: str, below: int, repeat: int = 1) -> bool:
    """Whether a parameter is fixed while the bottom `below` layers only run forward.

    With any layer fixed, the embeddings are fixed as well, and with them the output matrix, which
    is the token embedding; the rest of the output layer learns on (section 3.2). `repeat` layers
    in a row share a block of weights.
    """
    part, _, rest = name.partition(".")
    if part == "blocks":
        return int(rest.partition(".")[0]) < below // repeat
    return part == "embeddings" and below > 0


def freeze(model: Encoder, below: int, *, pair_head: bool = True) -> None:
    """Let learn what `is_fixed` does not fix, and nothing else.

    With the embeddings fixed, the first learning layer's input asks for no gradient, so the
    forward-only layers take no part in the backward pass.

    Args:
        model: changed in place: `requires_grad` of every parameter, and stale gradients dropped.
        below: layers at the bottom that only run forward.
        pair_head: whether pooler and next-sentence classifier learn, which without a pair
            objective they cannot.

    Raises:
        ValueError: no layer would be left to learn, or a part of a block would be fixed.
    """
    if not 0 <= below < model.depth:
        raise ValueError(f"{below} of {model.depth} layers cannot be fixed: none would learn")
    model.config.blocks(below)
    for name, parameter in model.named_parameters():
        unused = not pair_head and name.startswith(("head.pooler.", "head.pair."))
        parameter.requires_grad_(not (is_fixed(name, below, model.config.repeat) or unused))
    model.zero_grad(set_to_none=True)


def forward_only(model: Encoder) -> int:
    """How many layers at the bottom, with the embeddings below them, run forward only."""
    if any(p.requires_grad for p in model.embeddings.parameters()):
        return 0
    for number, block in enumerate(model.blocks):
        if any(p.requires_grad for p in block.parameters()):
            return number * model.config.repeat
    return model.depth


def learning(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and tensor of every parameter that learns."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
