"""What a step costs, counted by part: FLOPs, and the numbers that learn. Imports no torch.

A multiplication and an addition are two FLOPs. Matrix products alone are counted, as is usual: all
else is little arithmetic, though on some machines not little time.
"""

from dataclasses import dataclass
from math import inf

from mslt.plan import Plan, Stage
from mslt.shape import ModelConfig


@dataclass(frozen=True)
class Savings:
    """What is left out of a step, though no loss and no gradient changes.

    Args:
        masked_rows: logits at the predicted positions alone.
        fixed_gradients: no gradient for an output matrix that is fixed, and none for the input of
            the first learning layer where all below it is fixed.
        last_layer_rows: the last layer computed for [CLS] and the predicted positions alone; keys
            and values for all.
    """

    masked_rows: bool = True
    fixed_gradients: bool = True
    last_layer_rows: bool = True


ALL_SAVINGS = Savings()


@dataclass(frozen=True)
class StepCost:
    """FLOPs of one optimisation step.

    Args:
        prefix: the layers that only run forward.
        layers: the layers that learn, forward.
        head: the output layer, forward.
        backward: through learning layers and output layer.
    """

    prefix: float
    layers: float
    head: float
    backward: float

    def total(self, prefix_speed: float = 1.0) -> float:
        """All parts, where forward-only layers run `prefix_speed` times as fast as the others."""
        return self.prefix / prefix_speed + self.layers + self.head + self.backward


def step_cost(
    model: ModelConfig,
    stage: Stage,
    sequences: int,
    slots: float,
    savings: Savings = ALL_SAVINGS,
) -> StepCost:
    """FLOPs of a step in a stage.

    Args:
        model: the shape; its vocabulary must be known.
        stage: which layers stand and learn, and the sequence length.
        sequences: per step.
        slots: positions per sequence for which logits are computed (20 at length 128).
        savings: what the implementation leaves out.
    """
    width, length = model.hidden_size, stage.seq_len
    fixed = stage.learns_from > 0
    last_rows = slots + 1 if savings.last_layer_rows else length
    layer, last = (_layer(model, length, rows) for rows in (length, last_rows))
    learning = stage.depth - stage.learns_from
    layers = (learning - 1) * layer + last
    narrow = model.embedding_width
    project = 2 * length * width * narrow if model.embedding_size else 0
    logits = (slots if savings.masked_rows else length) * 2 * narrow * model.vocab_size
    transform = (slots if savings.masked_rows else length) * 2 * width * narrow
    pair = 2 * width**2 + 4 * width
    backward = 2 * (layers + logits + transform + pair + (0 if fixed else project))
    if fixed and savings.fixed_gradients:
        query_rows = last_rows if learning == 1 else length
        backward -= logits + 2 * width**2 * (2 * length + query_rows)
    return StepCost(
        prefix=sequences * (stage.learns_from * layer + (project if fixed else 0)),
        layers=sequences * (layers + (0 if fixed else project)),
        head=sequences * (logits + transform + pair),
        backward=sequences * backward,
    )


def _layer(model: ModelConfig, length: int, rows: float) -> float:
    """Forward FLOPs of a layer for one sequence, of which `rows` positions are needed."""
    width = model.hidden_size
    keys_and_values = 4 * width**2 * length
    query_and_output = 4 * width**2 * rows
    attention = 4 * width * length * rows
    feed_forward = 4 * width * model.intermediate_size * rows
    return keys_and_values + query_and_output + attention + feed_forward


def speedup(
    model: ModelConfig,
    plan: Plan,
    slots: float,
    *,
    prefix_speed: float = 1.0,
    savings: Savings = ALL_SAVINGS,
) -> float:
    """How many times fewer FLOPs a plan takes than training the whole model for as many steps.

    Args:
        model: the shape; its vocabulary must be known.
        plan: its stages and their steps.
        slots: as in `step_cost`, at the length of the first stage; in proportion at others.
        prefix_speed: of forward-only layers against the others; inf where they cost nothing.
        savings: what the implementation leaves out, of either.
    """
    ours = whole = 0.0
    for stage in plan.stages:
        here = slots * stage.seq_len / plan.stages[0].seq_len
        all_learn = Stage(model.num_hidden_layers, 0, seq_len=stage.seq_len)
        cost = step_cost(model, stage, 1, here, savings).total(prefix_speed)
        ours += stage.steps * cost
        whole += stage.steps * step_cost(model, all_learn, 1, here, savings).total()
    return whole / ours


FREE = inf  # the speed of forward-only layers whose output is read back instead of computed


def parameters(model: ModelConfig, depth: int) -> int:
    """Numbers in the weights of a model of `depth` layers, the output layer included."""
    blocks = depth // model.repeat
    return _embedding_parameters(model) + blocks * _layer_parameters(model) + head_parameters(model)


def learning_parameters(model: ModelConfig, stage: Stage) -> int:
    """Numbers that learn in a stage: what is reduced over processes, and what the optimizer moves.

    Pooler and pair classifier are counted, which learn where there is a pair objective.
    """
    embeddings = 0 if stage.learns_from else _embedding_parameters(model)
    blocks = (stage.depth - stage.learns_from) // model.repeat
    return embeddings + blocks * _layer_parameters(model) + head_parameters(model)


def _embedding_parameters(model: ModelConfig) -> int:
    rows = model.vocab_size + model.max_position_embeddings + 2  # and scale and bias of LayerNorm
    project = (model.embedding_size + 1) * model.hidden_size if model.embedding_size else 0
    return (rows + 2) * model.embedding_width + project


def _layer_parameters(model: ModelConfig) -> int:
    width, inner = model.hidden_size, model.intermediate_size
    weights = 4 * width**2 + 2 * width * inner
    biases = 4 * width + inner + width
    return weights + biases + 4 * width  # two LayerNorms


def head_parameters(model: ModelConfig) -> int:
    """Without the output matrix, which is the token embedding."""
    width, narrow = model.hidden_size, model.embedding_width
    transform, pooler = (width + 1) * narrow, (width + 1) * width
    return transform + 2 * narrow + model.vocab_size + pooler + 2 * width + 2
