"""How far attention, hidden states and weights differ, and where heads look, layer by layer.

What the paper's section 3.1 shows by eye (Figures 2 and 3), in numbers. Shapes as in
`mslt.analysis.attention`; S sequences of the sample, C classes of places to look at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mslt.analysis.attention import Observed, Sentences, observe
from mslt.analysis.attention_tables import CLASSES
from mslt.model import Encoder

NEAR = 2  # tokens on each side that are neighbours; a token is its own neighbour too
_AT_ONCE = 8  # sequences
_PARTS = 8  # of the sample, each of which is left out once to see how far a CKA can be trusted


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon distance of distributions along the last axis.

    The root of the divergence in bits (Endres and Schindelin 2003): a metric, 0 where both are the
    same and 1 where they share nothing.
    """
    middle = (p + q) / 2

    def divergence(x: Tensor) -> Tensor:
        return (torch.xlogy(x, x) - torch.xlogy(x, middle)).sum(-1)

    bits = (divergence(p) + divergence(q)) / 2 / torch.log(torch.tensor(2.0))
    return bits.clamp(0, 1).sqrt()


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two representations of the same tokens.

    Kornblith et al. 2019, section 3: 1 where one is the other turned, mirrored, shifted or scaled,
    0 where no direction of one says anything of the other. With fewer tokens than some tens of
    times the width it comes out too high.

    Args:
        x: a row for each token [tokens, width].
        y: of the same tokens; the width may be another one.
    """
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    own = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return float(torch.linalg.matrix_norm(x.T @ y) ** 2 / own) if own > 0 else 1.0


def weight_change(before: nn.Module, after: nn.Module) -> float:
    """Length of the change of two modules' weights over the length of those before.

    Key biases are left out: no output depends on them, and the optimizer moves them by rounding.
    """
    then, now = before.state_dict(), after.state_dict()
    moved = length = 0.0
    for name in then:
        old, new = then[name].double(), now[name].double()
        if name.endswith("qkv.bias"):
            old, new = (torch.cat([part.chunk(3)[i] for i in (0, 2)]) for part in (old, new))
        moved += float((new - old).square().sum())
        length += float(old.square().sum())
    return (moved / length) ** 0.5 if length else 0.0


def looks_at(weights_BHLL: Tensor, is_cls_BL: Tensor, is_sep_BL: Tensor) -> Tensor:
    """The part of each row's attention that goes to each of `CLASSES`: [B, H, L, C].

    A [CLS] or [SEP] counts as itself, however near it is.

    Args:
        weights_BHLL: attention; any axes may stand before the last two.
        is_cls_BL: which tokens are [CLS].
        is_sep_BL: which are [SEP].
    """
    place = torch.arange(weights_BHLL.shape[-1])
    near_LL = (place[:, None] - place).abs() <= NEAR
    special_BL = is_cls_BL | is_sep_BL
    parts = [
        is_cls_BL[:, None, None],
        is_sep_BL[:, None, None],
        near_LL & ~special_BL[:, None, None],
        ~near_LL & ~special_BL[:, None, None],
    ]
    return torch.stack([(weights_BHLL * part).sum(-1) for part in parts], -1)


def over_rows(values_BHL: Tensor, seen_BL: Tensor) -> Tensor:
    """Means over the rows that are tokens: [..., B, H] of [..., B, H, L]."""
    mask = seen_BL[:, None, :].to(values_BHL.dtype)
    return (values_BHL * mask).sum(-1) / mask.sum(-1)


@dataclass(frozen=True)
class Pair:
    """Two models, over the layers that both have (n).

    Args:
        distance_SnH: Jensen-Shannon distance of the same head's attention, mean over rows.
        cka_n1: linear CKA of hidden states, the embeddings' first [n + 1].
        cka_parts: the same with each part of the sample left out [parts, n + 1]; none where the
            sample has fewer sequences than two.
        weights_n: relative change of each layer's weights from the first model to the second.
    """

    distance_SnH: Tensor
    cka_n1: Tensor
    cka_parts: Tensor
    weights_n: list[float]

    @property
    def cka_error(self) -> Tensor | None:
        """Standard error of the CKA by the jackknife [n + 1]."""
        count = len(self.cka_parts)
        if count < 2:
            return None
        return (self.cka_parts.var(0, correction=0) * (count - 1)).sqrt()


@dataclass(frozen=True)
class Alone:
    """One model.

    Args:
        looks_SNHC: part of the attention that goes to each of `CLASSES`, mean over rows.
        halves_ShH: distance between layer i of the bottom half and layer i of the top half (h
            layers each), the same head.
        heads_SN: distance between different heads of a layer, the mean over all pairs: what a
            distance between two unlike heads is like.
    """

    looks_SNHC: Tensor
    halves_ShH: Tensor
    heads_SN: Tensor

    def shares(self) -> Tensor:
        """Share of each layer's heads that look at each class most, by sequence [S, N, C]."""
        most_SNH = self.looks_SNHC.argmax(-1)
        return nn.functional.one_hot(most_SNH, len(CLASSES)).double().mean(2)


@dataclass(frozen=True)
class Measured:
    """What `measure` found.

    Args:
        alone: for each model.
        pairs: by the numbers of the two models, counted from 0.
        uniform_C: `looks` of a head that would look at every token alike.
    """

    alone: list[Alone]
    pairs: dict[tuple[int, int], Pair]
    uniform_C: Tensor


def pairs_of(trail: int, count: int) -> list[tuple[int, int]]:
    """The models that `measure` compares, counted from 0.

    Each with the last of the trail; and in the trail each with the next.

    Args:
        trail: models that follow each other.
        count: models in all.
    """
    last = trail - 1
    return [*((i, last) for i in range(count) if i != last), *pairwise(range(last))]


def measure(
    models: Sequence[Encoder], trail: int, sample: Sentences, cls: int, sep: int
) -> Measured:
    """Observe models on a sample, a few sequences at a time, and compare them.

    Args:
        models: of one vocabulary and one shape, though not of one depth.
        trail: how many of them, from the first on, follow each other in training; the last of
            these is what all others are compared with.
        sample: sequences.
        cls: id of [CLS].
        sep: id of [SEP].

    Raises:
        ValueError: the models have different heads or widths.
    """
    shapes = {(m.config.num_attention_heads, m.config.hidden_size) for m in models}
    if len(shapes) > 1:
        heads = ", ".join(f"{h} heads of {w // h}" for h, w in sorted(shapes))
        raise ValueError(f"models of different shapes cannot be compared head by head: {heads}")
    wanted = pairs_of(trail, len(models))
    alone: list[list[tuple[Tensor, ...]]] = [[] for _ in models]
    distances: dict[tuple[int, int], list[Tensor]] = {pair: [] for pair in wanted}
    hidden: list[list[Tensor]] = [[] for _ in models]
    uniform = []
    for begin in range(0, len(sample.lengths), _AT_ONCE):
        part = sample[begin : begin + _AT_ONCE]
        at = part.ids_BL == cls, part.ids_BL == sep
        seen = [observe(model, part) for model in models]
        for i, one in enumerate(seen):
            alone[i].append(_alone(one, part, *at))
            hidden[i].append(one.hidden_NBLD[:, part.seen_BL])
        for a, b in wanted:
            distances[a, b].append(_distance(seen[a], seen[b], part.seen_BL))
        even = part.seen_BL[:, None, None] / part.seen_BL.sum(-1)[:, None, None, None]
        even = even.expand(-1, 1, part.ids_BL.shape[1], -1)
        uniform.append(_looks(even[None], part.seen_BL, *at)[:, 0, 0])
    states = [torch.cat(parts, 1) for parts in hidden]
    owner = torch.repeat_interleave(torch.arange(len(sample.lengths)), torch.tensor(sample.lengths))
    pairs = {
        (i, j): _pair(models[i], models[j], states[i], states[j], owner, torch.cat(found))
        for (i, j), found in distances.items()
    }
    whole = [Alone(*(torch.cat(parts) for parts in zip(*found))) for found in alone]
    return Measured(whole, pairs, torch.cat(uniform).mean(0))


def _distance(one: Observed, other: Observed, seen_BL: Tensor) -> Tensor:
    """[B, n, H] over the layers that both have."""
    layers = min(len(one.weights_NBHLL), len(other.weights_NBHLL))
    rows = jensen_shannon(one.weights_NBHLL[:layers], other.weights_NBHLL[:layers])
    return over_rows(rows, seen_BL).transpose(0, 1)


def _looks(weights: Tensor, seen_BL: Tensor, cls_BL: Tensor, sep_BL: Tensor) -> Tensor:
    """[B, N, H, C] of attention [N, B, H, L, L]."""
    looks = looks_at(weights, cls_BL, sep_BL).movedim(-1, 0)
    return over_rows(looks, seen_BL).permute(2, 1, 3, 0)


def _alone(one: Observed, part: Sentences, cls_BL: Tensor, sep_BL: Tensor) -> tuple[Tensor, ...]:
    """What `Alone` holds, of a part of the sample."""
    weights, seen_BL = one.weights_NBHLL, part.seen_BL
    half, heads = len(weights) // 2, weights.shape[2]
    rows = jensen_shannon(weights[:half], weights[len(weights) - half :])
    halves = over_rows(rows, seen_BL).transpose(0, 1)
    between = [
        over_rows(jensen_shannon(weights[:, :, :-step], weights[:, :, step:]), seen_BL).sum(-1)
        for step in range(1, heads)
    ]
    count = heads * (heads - 1) / 2
    apart = sum(between) / count if between else torch.zeros(weights.shape[:2])
    assert isinstance(apart, Tensor)
    return _looks(weights, seen_BL, cls_BL, sep_BL), halves, apart.T


def _pair(
    one: Encoder, other: Encoder, x: Tensor, y: Tensor, owner: Tensor, distance: Tensor
) -> Pair:
    """Two models; x and y are hidden states [N + 1, tokens, D], `owner` each token's sequence."""
    layers = min(one.depth, other.depth)
    sequences = len(distance)
    part = owner * min(_PARTS, sequences) // sequences
    kept = [part != i for i in range(int(part.max()) + 1)] if sequences > 1 else []

    def cka(rows: Tensor | slice) -> list[float]:
        return [linear_cka(x[i, rows], y[i, rows]) for i in range(layers + 1)]

    both = zip(one.layers(0, layers), other.layers(0, layers))
    return Pair(
        distance,
        torch.tensor(cka(slice(None))),
        torch.tensor([cka(rows) for rows in kept]),
        [weight_change(a, b) for a, b in both],
    )
