"""All that works for BERT works where layers share weights (section 3.3)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY, final_weights, losses, steps
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertModel, AutoModelForPreTraining, AutoTokenizer

from mslt import growth
from mslt.config import Config, InstanceConfig, ModelConfig, OptimizerConfig, PlanConfig
from mslt.cost import learning_parameters, parameters, speedup, step_cost
from mslt.data.instances import Batch
from mslt.export import export
from mslt.growth import copied_from, freeze, grow, is_fixed, learning
from mslt.launch import pretrain
from mslt.model import Encoder
from mslt.objective import Inputs
from mslt.plan import Stage
from mslt.pretrained import open_model
from mslt.recipes import RECIPES
from mslt.run import Run
from mslt.trainer import Settings, Trainer

Batches = Callable[..., Batch]

# What is left in the first moment is the gradient itself.
BARE = OptimizerConfig("adamw", beta1=0.0, clip_norm=0.0)
PLAIN = Settings(optimizer=BARE, precision="fp32", micro_batch=8, pair=True, seed=7)


@pytest.fixture(scope="module")
def shared(tiny: ModelConfig) -> ModelConfig:
    """Twelve layers in four blocks, and embeddings of 8."""
    return replace(tiny, embedding_size=8, num_hidden_groups=4, hidden_act="gelu_new")


def unrolled(model: Encoder) -> Encoder:
    """The same model with weights of its own for every layer."""
    config = replace(model.config, num_hidden_groups=model.config.num_hidden_layers)
    other = Encoder(config, model.depth)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}
    other.load_state_dict(weights, strict=False)
    for layer, block in enumerate(model.layers(0, model.depth)):
        other.blocks[layer].load_state_dict(block.state_dict())
    return other


def summed(gradients: dict[str, Tensor], repeat: int) -> dict[str, Tensor]:
    """Gradients of an unrolled model, added up over the layers that are one block."""
    found: dict[str, Tensor] = {}
    for name, gradient in gradients.items():
        part, _, rest = name.partition(".")
        number, _, rest = rest.partition(".")
        if part == "blocks":
            name = f"blocks.{int(number) // repeat}.{rest}"
        found[name] = found[name] + gradient if name in found else gradient
    return found


def gradients(model: Encoder, below: int, batch: Batch, **how: Any) -> dict[str, Tensor]:
    freeze(model, below)
    trainer = Trainer(model, replace(PLAIN, **how), {})
    trainer.step(0, batch, 0.0)
    return {name: moment.mean for name, moment in trainer.moments().items()}


@pytest.mark.parametrize("below", [0, 3, 9])
@pytest.mark.parametrize(
    "how", [{}, {"micro_batch": 3}, {"recompute": True}, {"prefix": "fp32", "prefix_batch": 8}],
    ids=str,
)  # fmt: skip
def test_a_shared_block_learns_from_every_layer_that_it_is(
    shared: ModelConfig, random_batch: Batches, below: int, how: dict[str, Any]
) -> None:
    """With dropout, of which both draw the same."""
    model = Encoder(replace(shared, initializer_range=0.2))
    found = gradients(model, below, random_batch(), **how)
    expected = summed(gradients(unrolled(model), below, random_batch(), **how), 3)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_in_bf16_a_shared_block_s_gradient_is_as_good_as_those_of_its_layers(
    shared: ModelConfig, random_batch: Batches
) -> None:
    """The sum over the repetitions is taken in bf16, once per micro-batch."""
    config = replace(
        shared,
        initializer_range=0.2,
        num_hidden_groups=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = Encoder(config)
    batch = random_batch()
    exact = gradients(model, 0, batch)
    ours = gradients(model, 0, batch, precision="bf16")
    theirs = summed(gradients(unrolled(model), 0, batch, precision="bf16"), 12)
    for name, gradient in exact.items():
        if name.startswith("blocks.") and not name.endswith("qkv.bias"):
            one, other = ((g[name] - gradient).norm() / gradient.norm() for g in (ours, theirs))
            assert one < 2 * other + 0.01, name


def test_a_shared_block_s_gradient_is_gathered_once_for_each_micro_batch(
    shared: ModelConfig, random_batch: Batches
) -> None:
    model, told = Encoder(shared), []
    freeze(model, 6)
    trainer = Trainer(model, replace(PLAIN, micro_batch=4, precision="bf16"), {})
    gathered = trainer.twin.gathered
    trainer.twin.gathered = lambda name: (told.append(name), gathered(name))[1]  # type: ignore
    trainer.step(0, random_batch(), 1e-3)
    assert sorted(told) == sorted(2 * [name for name, _ in learning(model)])


# --- growing and freezing -----------------------------------------------------------------------


def test_each_stage_adds_a_block_that_is_a_copy_of_the_topmost(shared: ModelConfig) -> None:
    model = Encoder(shared, 3)
    for depth in (6, 9, 12):
        grown = grow(model, depth)
        assert (grown.depth, len(grown.blocks)) == (depth, depth // 3)
        before, after = model.state_dict(), grown.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        for name in after.keys() - before.keys():
            source = copied_from(name, depth - 3, depth, repeat=3)
            assert source is not None
            assert torch.equal(after[name], before[source])
        model = grown
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1


@pytest.mark.parametrize("below", [0, 3, 6, 9])
def test_the_added_block_and_the_output_layer_learn(shared: ModelConfig, below: int) -> None:
    model = Encoder(shared, below + 3)
    freeze(model, below)
    assert growth.forward_only(model) == below
    names = {name for name, _ in learning(model)}
    assert names == {n for n, _ in model.named_parameters() if not is_fixed(n, below, repeat=3)}
    blocks = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    assert blocks == ({str(below // 3)} if below else {"0"})
    assert ("embeddings.project.weight" in names) == (below == 0)


def test_part_of_a_block_can_neither_be_grown_nor_fixed(shared: ModelConfig) -> None:
    part = "no whole number of blocks, since 3 layers share each"
    with pytest.raises(ValueError, match=part):
        grow(Encoder(shared, 3), 5)
    with pytest.raises(ValueError, match=part):
        freeze(Encoder(shared, 3), 1)
    with pytest.raises(ValueError, match=part):
        Encoder(shared, 4)


@pytest.mark.parametrize(
    ("changes", "plan", "complaint"),
    [
        ({"embedding_size": 0}, {}, r"num_hidden_groups needs model\.embedding_size"),
        ({"embedding_size": 64}, {}, "embedding_size must be at most model.hidden_size, 16"),
        ({"num_hidden_groups": 5}, {}, "num_hidden_groups must divide the 12 layers"),
        ({}, {"k": 6}, "stage 1 of the plan: 2 layers are no whole number of blocks"),
        ({"num_hidden_groups": 1}, {"k": 2}, "stage 1 of the plan: 6 layers are no whole"),
        ({"hidden_act": "relu"}, {}, "hidden_act must be one of gelu, gelu_new, not 'relu'"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_its_key(
    shared: ModelConfig, changes: dict[str, Any], plan: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Config(model=replace(shared, **changes), plan=PlanConfig("mslt", **plan))


# --- runs ---------------------------------------------------------------------------------------


ALBERT = replace(
    TINY,
    model=replace(TINY.model, embedding_size=8, num_hidden_groups=2, hidden_act="gelu_new"),
)
assert [(s.depth, s.learns_from) for s in ALBERT.stages().stages][:2] == [(2, 0), (4, 2)]


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("albert") / "run"
    assert pretrain(ALBERT, store, out) == 0
    return out


@pytest.mark.parametrize("stopped_at", [2, 4, 5, 8])
def test_a_run_resumes_bit_for_bit(
    store: Path, unbroken: Path, tmp_path: Path, stopped_at: int
) -> None:
    steps(ALBERT, store, tmp_path / "run", stopped_at)
    assert pretrain(ALBERT, store, tmp_path / "run", resume=True) == 0
    assert losses(tmp_path / "run") == losses(unbroken)
    expected = final_weights(unbroken)
    for name, tensor in final_weights(tmp_path / "run").items():
        assert torch.equal(tensor, expected[name]), name


def test_a_run_with_a_prefix_cache_is_one_that_computes_all(store: Path, tmp_path: Path) -> None:
    def config(gigabytes: float) -> Config:
        return replace(
            ALBERT,
            steps=30,
            batch_size=64,
            micro_batch=64,
            eval_every=0,
            save_every=100,
            instances=InstanceConfig(pair="sop", dupe_factor=1),
            plan=PlanConfig("mslt", k=2, seq_len=32, shares=[5, 24, 1]),
            prefix_cache=str(tmp_path / f"cache-{gigabytes}"),
            prefix_cache_gb=gigabytes,
        )

    for gigabytes in (1.0, 1e-6):  # room for all, and for nothing
        assert pretrain(config(gigabytes), store, tmp_path / f"run-{gigabytes}") == 0
    read, computed = (final_weights(tmp_path / f"run-{gigabytes}") for gigabytes in (1.0, 1e-6))
    assert all(torch.equal(read[name], computed[name]) for name in computed)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_s_export_is_a_stock_albert_of_as_many_groups(
    unbroken: Path, tmp_path: Path, stage: int
) -> None:
    folder = export(unbroken, tmp_path / "out", stage)
    theirs, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    groups = 1 if stage == 1 else 2
    assert type(theirs.config) is AlbertConfig
    assert theirs.config.num_hidden_groups == groups
    assert theirs.config.num_hidden_layers == 2 * groups
    opened = open_model(folder).model
    ours = open_model(Run.open(unbroken).stage_folders()[stage - 1]).model
    assert all(
        torch.equal(tensor, ours.state_dict()[name]) for name, tensor in opened.state_dict().items()
    )
    inputs = AutoTokenizer.from_pretrained(folder)(
        ["abc [MASK] cdef"], ["fgh"], return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs.eval()(**inputs)
        hidden = opened.eval().hidden(inputs["input_ids"], inputs["token_type_ids"])
        mlm_BLV = opened.head.mlm(hidden, opened.embeddings.token.weight)
        pair_B2 = opened.head.next_sentence(hidden[:, 0])
    assert (mlm_BLV - expected.prediction_logits).abs().max() < 1e-5
    assert (pair_B2 - expected.sop_logits).abs().max() < 1e-5
    card = (folder / "README.md").read_text()
    assert f"| blocks of weights | {groups}, each for 2 layers in a row |" in card
    assert "An ALBERT encoder" in card


# --- sizes and costs ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage(3), Stage(6, 3), Stage(12, 9), Stage(12)], ids=str)
def test_the_arithmetic_and_the_parameters_are_those_that_are_counted(
    shared: ModelConfig, random_batch: Batches, stage: Stage
) -> None:
    model = Encoder(shared, stage.depth)
    freeze(model, stage.learns_from)
    assert parameters(shared, stage.depth) == sum(p.numel() for p in model.parameters())
    assert learning_parameters(shared, stage) == sum(p.numel() for _, p in learning(model))
    counter = FlopCounterMode(display=False)
    trainer = Trainer(model, replace(PLAIN, kernels=False), {})  # they leave padding out
    with counter:
        trainer._losses(
            Inputs.of(random_batch(sequences=4, length=12, slots=3), "cpu"), None
        ).sum().backward()
    cost = step_cost(shared, replace(stage, seq_len=12), 4, 3)
    assert counter.get_total_flops() == pytest.approx(cost.total())


def encoder_alone(name: str, vocab_size: int) -> int:
    """Parameters of the encoder and its pooler, as they are usually given for an ALBERT."""
    model = RECIPES[name]().with_vocabulary(vocab_size).model
    with torch.device("meta"):
        own = Encoder(model).named_parameters()
        return sum(p.numel() for n, p in own if n.startswith("head.pooler") or "head." not in n)


def test_the_original_albert_base_has_the_parameters_of_google_s() -> None:
    """11,683,584 without heads for its 30,000 pieces, which the paper gives as 12M."""
    assert encoder_alone("albert_base_whole", 30_000) == 11_683_584
    with torch.device("meta"):
        theirs = AlbertModel(
            AlbertConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
        )
    assert theirs.num_parameters() == 11_683_584


def test_four_blocks_have_three_more_than_the_original() -> None:
    """The paper's 32M is 32.9M cut off, or 32.4M without the pooler (docs/paper.md)."""
    original, modified = (
        encoder_alone(name, 30_000) for name in ("albert_base_whole", "albert_base_mslt")
    )
    assert modified - original == 3 * 7_087_872
    assert modified == 32_947_200
    assert modified - (768**2 + 768) == 32_356_608


def test_the_cost_model_foresees_the_saving_of_four_blocks() -> None:
    config = RECIPES["albert_base_mslt"]().with_vocabulary(30_522)
    assert speedup(config.model, config.stages(), 20) == pytest.approx(2.14, abs=0.01)
