"""Every setting of a run: defaults, ranges, and the way to a file and back."""

import math
import re
from dataclasses import asdict, replace

import pytest
import yaml

from mslt.config import Config, InstanceConfig, ModelConfig, OptimizerConfig, PlanConfig
from mslt.recipes import RECIPES
from mslt.schedule import Schedule

INFINITE, UNKNOWN = math.inf, math.nan

# Class, how its fields are called, field, a value outside its range.
WRONG = [
    *[(ModelConfig, "model.", "vocab_size", v) for v in (-1,)],
    *[(ModelConfig, "model.", "hidden_size", v) for v in (0, -64)],
    *[(ModelConfig, "model.", "num_hidden_layers", v) for v in (0, -1)],
    *[(ModelConfig, "model.", "num_attention_heads", v) for v in (-1, 7)],
    *[(ModelConfig, "model.", "intermediate_size", v) for v in (7, -3072)],
    *[(ModelConfig, "model.", "max_position_embeddings", v) for v in (0, 7)],
    *[(ModelConfig, "model.", "hidden_dropout_prob", v) for v in (-0.1, 1.0, UNKNOWN)],
    *[(ModelConfig, "model.", "attention_probs_dropout_prob", v) for v in (-0.1, 1.0, UNKNOWN)],
    *[(ModelConfig, "model.", "initializer_range", v) for v in (0.0, -0.02, UNKNOWN, INFINITE)],
    *[(ModelConfig, "model.", "layer_norm_eps", v) for v in (0.0, -1e-12, UNKNOWN, INFINITE)],
    *[(InstanceConfig, "instances.", "pair", v) for v in ("rtd", "")],
    *[(InstanceConfig, "instances.", "short_prob", v) for v in (-0.1, 1.1, UNKNOWN)],
    *[(InstanceConfig, "instances.", "mask_prob", v) for v in (0.0, 1.0, UNKNOWN)],
    *[(InstanceConfig, "instances.", "dupe_factor", v) for v in (-1,)],
    *[(OptimizerConfig, "optimizer.", "name", v) for v in ("sgd", "LAMB")],
    *[(OptimizerConfig, "optimizer.", "weight_decay", v) for v in (-0.01, UNKNOWN, INFINITE)],
    *[(OptimizerConfig, "optimizer.", "beta1", v) for v in (-0.1, 1.0, UNKNOWN)],
    *[(OptimizerConfig, "optimizer.", "beta2", v) for v in (-0.1, 1.0, UNKNOWN)],
    *[(OptimizerConfig, "optimizer.", "eps", v) for v in (0.0, -1e-6, UNKNOWN, INFINITE)],
    *[(OptimizerConfig, "optimizer.", "clip_norm", v) for v in (-1.0, UNKNOWN, INFINITE)],
    *[(OptimizerConfig, "optimizer.", "copied_moments", v) for v in ("kept", "")],
    *[(OptimizerConfig, "optimizer.", "returning_moments", v) for v in ("copied", "")],
    *[(Config, "", "steps", v) for v in (0, -5)],
    *[(Config, "", "batch_size", v) for v in (0, -1)],
    *[(Config, "", "micro_batch", v) for v in (-1, 1025)],
    *[(Config, "", "seed", v) for v in (-1,)],
    *[
        (Config, "", "device", v)
        for v in ("gpu", "tpu:0", "", "cpu:x", "cpu:0", "cuda:", "cuda:-1")
    ],
    *[(Config, "", "precision", v) for v in ("fp16", "float32")],
    (Config, "", "compile", "yes"),
    (Config, "", "reduce", "int8"),
    *[(Config, "", "prefix", v) for v in ("auto", "fp16")],
    *[(Config, "", "eval_every", v) for v in (-1,)],
    *[(Config, "", "eval_batches", v) for v in (0,)],
    *[(Config, "", "save_every", v) for v in (0,)],
    *[(Config, "", "keep", v) for v in (0,)],
    *[(Config, "", "log_every", v) for v in (0,)],
]


@pytest.mark.parametrize(("cls", "prefix", "name", "value"), WRONG)
def test_a_value_outside_its_range_is_refused_by_its_key(cls, prefix, name, value):
    with pytest.raises(ValueError, match=rf"^{prefix}{name} must "):
        cls(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("hidden_dropout_prob", (0.0, 0.99)),
        ("attention_probs_dropout_prob", (0.0, 0.99)),
        ("vocab_size", (0, 1)),
        ("hidden_size", (2, 64)),
        ("max_position_embeddings", (8,)),
    ],
)
def test_the_ends_of_a_range_that_belong_to_it_are_accepted(name, values):
    for value in values:
        assert getattr(ModelConfig(**{name: value}), name) == value


def test_a_prefix_cache_without_effect_is_refused():
    static = InstanceConfig(dupe_factor=1)
    assert Config(prefix_cache="x", instances=static)
    with pytest.raises(ValueError, match=r"^prefix_cache_gb has no effect without prefix_cache"):
        Config(prefix_cache_gb=5.0)
    with pytest.raises(ValueError, match=r"^prefix_cache has no effect without instances"):
        Config(prefix_cache="x")
    for method in ("whole", "stacking"):
        with pytest.raises(ValueError, match=r"^prefix_cache has no effect: no stage of this plan"):
            Config(prefix_cache="x", instances=static, plan=PlanConfig(method))
    for gigabytes in (0.0, -1.0, UNKNOWN, INFINITE):
        with pytest.raises(ValueError, match=r"^prefix_cache_gb must be above 0"):
            Config(prefix_cache="x", prefix_cache_gb=gigabytes, instances=static)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_devices_are_named_as_in_torch(device):
    assert Config(device=device).device == device


@pytest.mark.parametrize(
    ("width", "heads", "inner"), [(768, 12, 3072), (1024, 16, 4096), (128, 2, 512), (32, 1, 128)]
)
def test_heads_and_inner_width_follow_from_the_width(width, heads, inner):
    """Devlin et al. (2018), section 3: 64 per head, 4 D inside."""
    model = ModelConfig(hidden_size=width)
    assert (model.num_attention_heads, model.intermediate_size) == (heads, inner)


def test_heads_and_inner_width_that_are_given_stay():
    model = ModelConfig(hidden_size=768, num_attention_heads=6, intermediate_size=1000)
    assert (model.num_attention_heads, model.intermediate_size) == (6, 1000)


def test_a_plan_that_cannot_be_built_is_refused_with_the_config():
    with pytest.raises(ValueError, match=r"plan\.k must divide the 12 layers"):
        Config(plan=PlanConfig(k=5))
    with pytest.raises(ValueError, match=r"4 steps are too few"):
        Config(steps=4)
    with pytest.raises(ValueError, match=r"plan\.method must be one of"):
        Config(plan=PlanConfig(method="layerwise"))


def test_sequences_longer_than_the_positions_are_refused():
    model = ModelConfig(max_position_embeddings=256)
    assert Config(model=model, plan=PlanConfig(seq_len=256))
    with pytest.raises(ValueError, match=r"model\.max_position_embeddings of 257 or more, not 256"):
        Config(model=model, plan=PlanConfig(seq_len=257))
    with pytest.raises(ValueError, match=r"model\.max_position_embeddings of 512 or more, not 256"):
        Config(model=model, plan=PlanConfig(long_share=0.1))


def test_the_plan_gets_every_setting():
    schedule = Schedule(lr=1e-3, warmup_steps=5)
    plan = Config(
        steps=100,
        model=ModelConfig(num_hidden_layers=4),
        plan=PlanConfig("mslt", 2, 0.5, None, 16, 0.1, 32),
        schedule=schedule,
    ).stages()
    assert [tuple(asdict(s).values()) for s in plan.stages] == [
        (2, 0, 25, 16),
        (4, 2, 25, 16),
        (4, 0, 40, 16),
        (4, 0, 10, 32),
    ]
    assert plan.schedule is schedule


# --- vocabulary ---------------------------------------------------------------------------------


def test_the_vocabulary_is_filled_in_from_the_store():
    config = Config()
    filled = config.with_vocabulary(8192)
    assert filled.model.vocab_size == 8192
    assert replace(filled, model=replace(filled.model, vocab_size=0)) == config
    assert filled.with_vocabulary(8192) == filled


def test_a_store_with_another_vocabulary_is_refused():
    config = Config(model=ModelConfig(vocab_size=30_522))
    with pytest.raises(ValueError, match=r"model\.vocab_size is 30522, but .* has 8192 pieces"):
        config.with_vocabulary(8192)


# --- to a file and back -------------------------------------------------------------------------

UNUSUAL = Config(
    steps=77,
    batch_size=6,
    micro_batch=3,
    seed=5,
    device="cpu",
    precision="bf16",
    prefix="bf16",
    prefix_cache="somewhere",
    prefix_cache_gb=0.5,
    recompute=True,
    compile="on",
    reduce="bf16",
    look_ahead=False,
    eval_every=0,
    eval_batches=3,
    save_every=9,
    keep=4,
    log_every=2,
    skip_spikes=False,
    tensorboard=True,
    track=["mlflow"],
    model=ModelConfig(99, 24, 6, 3, 40, 300, 8, 6, "gelu_new", 0.0, 0.25, "local", 0.5, 1e-5),
    plan=PlanConfig("mslt", 3, None, [1 / 3, 2, 3, 1e-3 + 5], 24, 0.125, 48, 3),
    schedule=Schedule(1 / 3, 11, "wsd", 1 / 7, True),
    optimizer=OptimizerConfig("adamw", 0.1, 0.8, 0.95, 1e-9, 0.0, "copied", "fresh"),
    instances=InstanceConfig("sop", 0.5, 0.3, True, 7),
)


@pytest.mark.parametrize("config", [UNUSUAL, *(make() for make in RECIPES.values())])
def test_a_config_survives_the_way_to_yaml_and_back(config):
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_no_setting_of_the_unusual_config_is_the_default():
    """So that the test above sees every field."""

    def flat(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    usual = dict(flat(Config().to_dict()))
    same = {key for key, value in flat(UNUSUAL.to_dict()) if value == usual[key]}
    assert same == {"plan.method", "plan.retrain"}  # mslt has the most settings; shares exclude it


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match=r"unknown key optimizer\.momentum"):
        Config.from_dict(UNUSUAL.to_dict() | {"optimizer": {"momentum": 0.9}})
    with pytest.raises(ValueError, match="unknown key stepz"):
        Config.from_dict({"stepz": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"steps": "300"}, "steps must be a whole number, not '300'"),
        ({"tensorboard": 1}, "tensorboard must be true or false, not 1"),
        ({"device": None}, "device must be a text, not None"),
        ({"precision": "fp8"}, "precision must be auto, fp32 or bf16, not 'fp8'"),
        ({"schedule": {"lr": math.inf}}, "schedule.lr must be a number, not inf"),
        ({"plan": {"k": "4"}}, "plan.k must be a whole number or null, not '4'"),
        ({"plan": {"shares": [1, "a"]}}, "plan.shares must be numbers, as in 50,5,5 or null"),
        ({"model": 3}, "model must be `key: value`, not 3"),
        ({"steps": 10**30}, "steps must be 10,000,000,000 or less"),
        ({"model": {"num_hidden_layers": 10**9}}, "model.num_hidden_layers must be 10,000 or less"),
    ],
)
def test_a_value_of_another_type_or_beyond_all_measure_is_refused_by_its_key(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Config.from_dict(values)


def test_what_is_not_given_has_its_default():
    given = {"steps": 50, "model": {"hidden_size": 128}}
    assert Config.from_dict(given) == Config(steps=50, model=ModelConfig(hidden_size=128))


def test_a_config_does_not_change():
    with pytest.raises(AttributeError):
        Config().steps = 5  # type: ignore[misc]
