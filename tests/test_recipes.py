"""The rows of the paper's tables, and the small ones."""

import pytest
import torch

from mslt.growth import freeze, learning
from mslt.model import Encoder
from mslt.recipes import RECIPES

K = 1000
MSLT_BASE = [(3, 0, 200), (6, 3, 200), (9, 6, 200), (12, 9, 200), (12, 0, 200)]
MSLT_LARGE = [(6, 0, 200), (12, 6, 200), (18, 12, 200), (24, 18, 200), (24, 0, 200)]

# Layers, width, and (depth, learns_from, thousands of steps) of each stage.
STACKING_BASE = [(3, 0, 125), (6, 0, 175), (12, 0, 700)]
STACKING_LARGE = [(6, 0, 125), (12, 0, 175), (24, 0, 700)]


def squad(depth: int, growing: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The last 100k of the steps are a stage of their own."""
    *before, (_, _, thousands) = growing
    return [*before, (depth, 0, thousands - 100), (depth, 0, 100)]


PAPER = {
    "bert_base_whole": (12, 768, [(12, 0, 1000)]),
    "bert_base_stacking": (12, 768, STACKING_BASE),
    "bert_base_mslt": (12, 768, MSLT_BASE),
    "bert_base_whole_squad": (12, 768, squad(12, [(12, 0, 1000)])),
    "bert_base_stacking_squad": (12, 768, squad(12, STACKING_BASE)),
    "bert_base_mslt_squad": (12, 768, squad(12, MSLT_BASE)),
    "bert_base_mslt_without_retraining": (12, 768, MSLT_BASE[:4]),
    "bert_base_whole_480k": (12, 768, [(12, 0, 480)]),
    "bert_large_whole": (24, 1024, [(24, 0, 1000)]),
    "bert_large_stacking": (24, 1024, STACKING_LARGE),
    "bert_large_mslt": (24, 1024, MSLT_LARGE),
    "bert_large_whole_squad": (24, 1024, squad(24, [(24, 0, 1000)])),
    "bert_large_stacking_squad": (24, 1024, squad(24, STACKING_LARGE)),
    "bert_large_mslt_squad": (24, 1024, squad(24, MSLT_LARGE)),
    "bert_large_mslt_without_retraining": (24, 1024, MSLT_LARGE[:4]),
    "bert_large_mslt_500k": (24, 1024, [(d, f, n // 2) for d, f, n in MSLT_LARGE]),
    "bert_large_whole_230k": (24, 1024, [(24, 0, 230)]),
    "albert_base_whole": (12, 768, [(12, 0, 1000)]),
    "albert_base_mslt": (12, 768, MSLT_BASE),
}
SMALL = [name for name in RECIPES if name not in PAPER]
TWINS = {"bert_base": "bert_tiny", "bert_large": "bert_deep", "albert_base": "albert_tiny"}
SHORTENED = {"480k": "960", "500k": "1000", "230k": "460"}


@pytest.mark.parametrize("name", PAPER)
def test_a_row_of_the_paper_has_its_layers_and_steps(name):
    depth, width, stages = PAPER[name]
    config = RECIPES[name]()
    assert (config.model.num_hidden_layers, config.model.hidden_size) == (depth, width)
    plan = config.stages()
    assert [(s.depth, s.learns_from, s.steps) for s in plan.stages] == [
        (depth, below, thousands * K) for depth, below, thousands in stages
    ]
    assert config.steps == plan.steps


@pytest.mark.parametrize("name", PAPER)
def test_a_row_of_the_paper_is_trained_as_in_its_setup(name):
    """Section 4.1: batch 1024, LAMB at 0.00088, otherwise as Devlin et al.; 4.2: warm-up."""
    config = RECIPES[name]()
    assert config.batch_size == 1024
    assert (config.optimizer.name, config.schedule.lr) == ("lamb", 0.00088)
    assert config.schedule.warmup_steps == 10_000
    assert config.schedule.shape == "linear"
    assert not config.schedule.per_stage
    assert (config.optimizer.weight_decay, config.optimizer.clip_norm) == (0.01, 1.0)
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.999)
    assert (config.instances.pair, config.instances.mask_prob) == ("nsp", 0.15)
    assert config.model.hidden_dropout_prob == config.model.attention_probs_dropout_prob == 0.1
    assert config.model.max_position_embeddings == 512


@pytest.mark.parametrize("size", ["base", "tiny"])
def test_table_3_compares_one_block_of_weights_with_one_for_each_stage(size):
    """Section 3.3; the embeddings are factorised, and there is Google's activation."""
    whole, mslt = (RECIPES[f"albert_{size}_{method}"]().model for method in ("whole", "mslt"))
    assert (whole.repeat, mslt.repeat) == (12, 3)
    assert mslt.embedding_size == {"base": 128, "tiny": 64}[size]
    assert {whole.hidden_act, mslt.hidden_act} == {"gelu_new"}
    ranges = (whole.initializer_range, mslt.initializer_range)
    assert ranges == {"base": (0.02, 0.02), "tiny": (0.021, 0.034)}[size]
    bert = RECIPES[f"bert_{size}_mslt"]().model
    assert (bert.embedding_size, bert.repeat, bert.hidden_act) == (0, 1, "gelu")


@pytest.mark.parametrize("name", PAPER)
def test_sequences_are_128_long_but_for_squad(name):
    """Sections 4.1 and 4.2."""
    *before, last = [stage.seq_len for stage in RECIPES[name]().stages().stages]
    assert set(before) <= {128}
    assert last == (512 if name.endswith("squad") else 128)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_made_anew_and_says_what_it_is(name):
    make = RECIPES[name]
    assert make() == make()
    assert make.__name__ == name
    assert make.__doc__


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_the_vocabulary_of_the_store(name):
    assert RECIPES[name]().with_vocabulary(1234).model.vocab_size == 1234


def small_twin(name: str) -> str:
    """The recipe that is the same row of the paper at a scale that a CPU finishes."""
    shape = next(shape for shape in TWINS if name.startswith(shape))
    *words, last = name.removeprefix(shape).split("_")
    return "_".join([TWINS[shape], *words[1:], SHORTENED.get(last, last)])


@pytest.mark.parametrize("name", PAPER)
def test_every_row_of_the_paper_has_a_twin_that_a_cpu_finishes(name):
    ours, small = RECIPES[name](), RECIPES[small_twin(name)]()
    assert small.model.num_hidden_layers == ours.model.num_hidden_layers
    assert (small.model.hidden_size, small.batch_size, small.optimizer.name) == (128, 64, "adamw")
    assert [(s.depth, s.learns_from, s.steps * 500) for s in small.stages().stages] == [
        (s.depth, s.learns_from, s.steps) for s in ours.stages().stages
    ]
    lengths = {128: 64, 512: 512}
    assert [s.seq_len for s in small.stages().stages] == [
        lengths[s.seq_len] for s in ours.stages().stages
    ]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_differs_from_its_siblings_by_its_plan_alone(name):
    family = "_".join(name.split("_")[: 1 if name.startswith("demo") else 2])
    ours, whole = RECIPES[name]().to_dict(), RECIPES[f"{family}_whole"]().to_dict()
    for config in (ours, whole):
        del config["plan"], config["steps"]
        del config["model"]["num_hidden_groups"]  # one in the original ALBERT, and with them ...
        del config["model"]["initializer_range"]
    assert ours == whole


# --- sizes --------------------------------------------------------------------------------------


def meta_model(name: str, depth: int | None = None) -> Encoder:
    """A model without memory, for the 30,522 WordPieces of Devlin et al."""
    config = RECIPES[name]().with_vocabulary(30_522).model
    with torch.device("meta"):
        return Encoder(config, depth)


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("name", "parameters"), [("bert_base_whole", 110_106_428), ("bert_large_whole", 336_226_108)]
)
def test_bert_has_as_many_parameters_as_hugging_faces(name, parameters):
    """Both figures are those of transformers' BertForPreTraining, output matrix tied."""
    assert count(meta_model(name).parameters()) == parameters


def test_in_stages_2_to_4_about_a_fifth_of_base_learns():
    """Section 3.2: the newly added layers and the output layer, without the word embeddings."""
    embeddings = (30_522 + 512 + 2 + 2) * 768
    layer = 12 * 768**2 + 13 * 768
    output = 2 * 768**2 + 4 * 768 + 30_522 + 2 * 768 + 2
    for stage in RECIPES["bert_base_mslt"]().stages().stages:
        model = meta_model("bert_base_mslt", stage.depth)
        freeze(model, stage.learns_from)
        learns = (stage.depth - stage.learns_from) * layer + output
        expected = learns + (0 if stage.learns_from else embeddings)
        assert count(p for _, p in learning(model)) == expected
    assert round((3 * layer + output) / (12 * layer + output + embeddings), 3) == 0.204
