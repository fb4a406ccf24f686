"""The shape of a model, and the checks that all of a config shares. Imports no torch."""

from dataclasses import dataclass
from math import inf
from typing import Literal

# Far beyond what anybody trains, and small enough to reckon with.
_MOST = {
    "steps": 10**10,
    "batch_size": 10**7,
    "eval_batches": 10**6,
    "seed": 2**63 - 1,
    "hidden_size": 10**5,
    "num_hidden_layers": 10**4,
    "intermediate_size": 10**6,
    "max_position_embeddings": 10**6,
    "vocab_size": 10**8,
}


def at_least(least: int, prefix: str, part: object, *names: str) -> None:
    """Raise ValueError where a number of a config is below `least`, or beyond all reason."""
    for name in names:
        value = getattr(part, name)
        if value < least:
            raise ValueError(f"{prefix}{name} must be {least} or more, not {value}")
        if value > _MOST.get(name, inf):
            raise ValueError(f"{prefix}{name} must be {_MOST[name]:,} or less, not {value}")


def one_of(key: str, value: str, *allowed: str) -> None:
    """Raise ValueError where a value is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a BERT or ALBERT encoder, in the names of Hugging Face's config.json.

    Args:
        vocab_size: WordPieces. 0 takes the store's.
        hidden_size: width D.
        num_hidden_layers: encoder layers of the finished model (N).
        num_attention_heads: H. 0 takes one head for each 64 of width.
        intermediate_size: width of the feed-forward part. 0 takes 4 D.
        max_position_embeddings: longest sequence.
        embedding_size: width E of the embeddings, which a matrix then makes as wide as the layers
            (ALBERT). 0: as wide as the layers, and no such matrix (BERT).
        num_hidden_groups: blocks of weights, each of which is N / groups layers in a row (ALBERT;
            section 3.3). 0: every layer has weights of its own.
        hidden_act: gelu, or gelu_new, its approximation by tanh, which Google's ALBERT has.
        hidden_dropout_prob: dropout on the outputs of embeddings, attention and feed-forward.
        attention_probs_dropout_prob: dropout on the attention weights.
        initializer: normal is Devlin et al.'s truncated normal; local lets each head begin by
            looking at a neighbour, and the output bias at the tokens' own frequencies, so that
            small models learn context from the start (see `mslt.initial`).
        initializer_range: standard deviation of the initial weights.
        layer_norm_eps: added to the variance in LayerNorm.
    """

    vocab_size: int = 0
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 0
    intermediate_size: int = 0
    max_position_embeddings: int = 512
    embedding_size: int = 0
    num_hidden_groups: int = 0
    hidden_act: Literal["gelu", "gelu_new"] = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer: Literal["normal", "local"] = "normal"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.num_attention_heads == 0:
            object.__setattr__(self, "num_attention_heads", max(1, self.hidden_size // 64))
        if self.intermediate_size == 0:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        at_least(1, "model.", self, *names)
        at_least(8, "model.", self, "intermediate_size", "max_position_embeddings")
        at_least(0, "model.", self, "vocab_size", "embedding_size", "num_hidden_groups")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"model.num_attention_heads must divide model.hidden_size: "
                f"{self.num_attention_heads} does not divide {self.hidden_size}"
            )
        self._check_sharing()
        one_of("model.hidden_act", self.hidden_act, "gelu", "gelu_new")
        if self.initializer not in ("normal", "local"):
            raise ValueError(f"model.initializer must be normal or local, not {self.initializer!r}")
        if self.initializer == "local" and (self.hidden_size % 2 or self.embedding_width % 2):
            raise ValueError("model.initializer local needs an even width")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 < self.initializer_range < inf:
            raise ValueError(
                f"model.initializer_range must be above 0, not {self.initializer_range}"
            )
        if not 0 < self.layer_norm_eps < inf:
            raise ValueError(f"model.layer_norm_eps must be above 0, not {self.layer_norm_eps}")

    def _check_sharing(self) -> None:
        """Raise ValueError where layers cannot share weights in this way."""
        if self.num_hidden_groups and not self.embedding_size:
            raise ValueError(
                "model.num_hidden_groups needs model.embedding_size: layers share weights in an "
                "ALBERT alone"
            )
        if self.embedding_size > self.hidden_size:
            raise ValueError(
                f"model.embedding_size must be at most model.hidden_size, {self.hidden_size}, not "
                f"{self.embedding_size}"
            )
        if self.num_hidden_groups and self.num_hidden_layers % self.num_hidden_groups:
            raise ValueError(
                f"model.num_hidden_groups must divide the {self.num_hidden_layers} layers: "
                f"{self.num_hidden_groups} does not"
            )

    @property
    def embedding_width(self) -> int:
        """Of the embeddings (E): that of the layers, but in an ALBERT."""
        return self.embedding_size or self.hidden_size

    @property
    def repeat(self) -> int:
        """Layers in a row that are the same block of weights."""
        return self.num_hidden_layers // (self.num_hidden_groups or self.num_hidden_layers)

    def blocks(self, layers: int) -> int:
        """How many blocks of weights so many layers are.

        Raises:
            ValueError: the last of them would not be whole.
        """
        if layers % self.repeat:
            raise ValueError(
                f"{layers} layers are no whole number of blocks, since {self.repeat} layers share "
                f"each (model.num_hidden_groups)"
            )
        return layers // self.repeat
