"""Checkpoints come back bit for bit, damage is found and named, and half a folder never stands."""

import json
import math
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import mslt.checkpoint as checkpoint
from mslt import files
from mslt.checkpoint import (
    State,
    load_model,
    load_state,
    save_model,
    save_state,
    verify_folder,
    write_folder,
)
from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.growth import freeze, grow
from mslt.model import Encoder
from mslt.optim import Moment
from mslt.plan import Plan, build_plan
from mslt.schedule import Schedule
from mslt.trainer import Settings, Trainer

PLAN = build_plan("mslt", 4, 10, k=2, schedule=Schedule(lr=1e-2, warmup_steps=2))
FILES = ("model.safetensors", "moments.safetensors", "state.json", "manifest.json")


def advance(
    plan: Plan, state: State, batch: Callable[..., Batch], optimizer: str
) -> Iterator[State]:
    """The plan's steps from a state on, with dropout and micro-batches."""
    settings = Settings(OptimizerConfig(optimizer), "fp32", micro_batch=4, pair=True, seed=3)
    for _, stage, steps in plan.remaining(state.step):
        model = state.model if state.model.depth == stage.depth else grow(state.model, stage.depth)
        freeze(model, stage.learns_from)
        trainer = Trainer(model, settings, state.moments)
        for step in steps:
            trainer.step(step, batch(step), plan.lr(step))
            state = State(step + 1, model, trainer.moments(), seconds=(step + 1) / 3)
            yield state


@pytest.fixture(scope="module")
def trained(tiny, random_batch) -> State:
    """In the middle of the plan, when parameters differ in how often they were updated."""
    start = State(0, Encoder(tiny, 2))
    *_, state = (s for s in advance(PLAN, start, random_batch, "lamb") if s.step <= 6)
    assert {moment.updates for moment in state.moments.values()} == {2, 4, 6}
    return state


@pytest.fixture
def saved(tmp_path, trained) -> Path:
    save_state(tmp_path / "step-6", trained)
    return tmp_path / "step-6"


def bits(tensor: Tensor) -> Tensor:
    """As integers, so that NaN equals itself and -0 does not equal 0."""
    return tensor.detach().contiguous().view(torch.int32)


def assert_same(one: State, other: State) -> None:
    assert (one.step, one.model.depth) == (other.step, other.model.depth)
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(bits(ours[name]), bits(theirs[name])) for name in ours)
    assert one.moments.keys() == other.moments.keys()
    for name, (mean, square, updates) in one.moments.items():
        assert torch.equal(bits(mean), bits(other.moments[name].mean))
        assert torch.equal(bits(square), bits(other.moments[name].square))
        assert updates == other.moments[name].updates


# --- there and back -----------------------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit(saved, trained, tiny):
    loaded = load_state(saved, tiny)
    assert_same(loaded, trained)
    assert loaded.seconds == trained.seconds == 2.0


def test_even_unusual_numbers_come_back_bit_for_bit(tmp_path, tiny):
    state = State(1, Encoder(tiny, 1), seconds=1 / 3)
    odd = torch.tensor([3.4e38, -3.4e38, -0.0, 1e-45, 1 + 2**-23])
    state.model.head.bias.data[:5] = odd
    state.moments["head.bias"] = Moment(state.model.head.bias.data.clone(), torch.zeros(40), 2**40)
    save_state(tmp_path / "odd", state)
    loaded = load_state(tmp_path / "odd", tiny)
    assert_same(loaded, state)
    assert loaded.seconds == 1 / 3


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["model", "moments"])
def test_a_number_that_is_not_finite_is_refused_by_its_tensor(tmp_path, tiny, number, place):
    state = State(1, Encoder(tiny, 1))
    state.moments["head.bias"] = Moment(torch.zeros(40), torch.zeros(40), 1)
    bias = state.model.head.bias.data if place == "model" else state.moments["head.bias"].mean
    bias[7] = number
    save_state(tmp_path / "odd", state)
    with pytest.raises(
        ValueError, match=rf"{place}.safetensors is damaged: .* head.bias.* not fin"
    ):
        load_state(tmp_path / "odd", tiny)


def test_a_state_without_moments_comes_back(tmp_path, tiny):
    state = State(0, Encoder(tiny, 3, seed=5))
    save_state(tmp_path / "first", state)
    loaded = load_state(tmp_path / "first", tiny)
    assert_same(loaded, state)
    assert loaded.moments == {}


def test_a_model_comes_back_with_its_facts(tmp_path, tiny):
    model = Encoder(tiny, 2, seed=5)
    save_model(tmp_path / "stage", model, {"stage": 1, "loss": 2.5})
    loaded, facts = load_model(tmp_path / "stage", tiny)
    assert_same(State(0, loaded), State(0, model))
    assert facts == {"depth": 2, "stage": 1, "loss": 2.5}


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_training_goes_on_from_every_step_as_if_never_interrupted(
    tmp_path, tiny, random_batch, optimizer
):
    """Bit for bit, through growth, and where fixed layers return."""
    whole = State(0, Encoder(tiny, 2))
    for state in advance(PLAN, whole, random_batch, optimizer):
        save_state(tmp_path / f"step-{state.step}", state)
    for step in range(1, 10):
        resumed = load_state(tmp_path / f"step-{step}", tiny)
        *_, last = advance(PLAN, resumed, random_batch, optimizer)
        assert_same(last, state)
        assert last.seconds == state.seconds


def test_a_checkpoint_holds_safetensors_and_json_and_no_pickle(saved):
    assert {path.name for path in saved.iterdir()} == set(FILES)
    for path in saved.iterdir():
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict)
        else:
            with safe_open(path, "pt") as tensors:
                assert tensors.keys()


# --- damage -------------------------------------------------------------------------------------


def flipped(path: Path, most: int) -> Iterator[int]:
    """One byte of the file at a time has another bit than it should: places spread over it."""
    content = path.read_bytes()
    places = sorted({i * (len(content) - 1) // (most - 1) for i in range(most)})
    for place in places:
        wrong = bytearray(content)
        wrong[place] ^= 1 << place % 8
        path.write_bytes(wrong)
        yield place
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found_and_named(saved, tiny, name):
    named = str(saved) if name == "manifest.json" else str(saved / name)
    for place in flipped(saved / name, most=1000 if name == "manifest.json" else 100):
        with pytest.raises(ValueError, match="is damaged") as error:
            load_state(saved, tiny)
        assert named in str(error.value), place
    verify_folder(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, -1])
def test_a_truncated_file_is_found_and_named(saved, tiny, name, keep):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:keep])
    with pytest.raises(ValueError, match=f"^{saved / name} is damaged"):
        load_state(saved, tiny)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_found(saved, tiny, name):
    with (saved / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        load_state(saved, tiny)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(saved, tiny, name):
    (saved / name).unlink()
    with pytest.raises(ValueError, match=f"is damaged: .*{name}"):
        load_state(saved, tiny)


def test_a_missing_folder_is_named(tmp_path, tiny):
    with pytest.raises(ValueError, match=f"^{tmp_path / 'step-9'} is damaged"):
        load_state(tmp_path / "step-9", tiny)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_found(saved, trained, tiny, name):
    other = saved.with_name("step-7")
    moments = {n: m._replace(mean=m.mean + 1) for n, m in trained.moments.items()}
    save_state(other, State(7, Encoder(tiny, 4, seed=9), moments))
    shutil.copyfile(other / name, saved / name)
    with pytest.raises(ValueError, match="is damaged"):
        load_state(saved, tiny)
    verify_folder(other)


def test_two_files_that_changed_places_are_found(saved, tiny):
    one, other = saved / "model.safetensors", saved / "moments.safetensors"
    one.rename(saved / "aside")
    other.rename(one)
    (saved / "aside").rename(other)
    with pytest.raises(ValueError, match=f"^{one} is damaged"):
        load_state(saved, tiny)


@pytest.mark.parametrize("manifest", [b"[]", b"null", b"{}", b'{"sha256": null}', b"\xff\xfe"])
def test_a_manifest_that_is_none_is_found(saved, tiny, manifest):
    (saved / "manifest.json").write_bytes(manifest)
    with pytest.raises(ValueError, match=f"^{saved}(/manifest.json)? is damaged"):
        load_state(saved, tiny)


def test_weights_of_another_shape_than_the_configs_are_refused(saved, tiny):
    other = ModelConfig(vocab_size=40, hidden_size=32, num_hidden_layers=4)
    with pytest.raises(ValueError, match="does not fit the model's config, which needs"):
        load_state(saved, other)
    other = replace(tiny, intermediate_size=9)
    with pytest.raises(ValueError, match=r"mlp.up.weight is F32 \[24, 16\], not F32 \[9, 16\]"):
        load_state(saved, other)


def test_more_layers_than_the_config_has_are_refused(saved):
    with pytest.raises(ValueError, match="depth must be 1 to 3, not 4"):
        load_state(saved, ModelConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3))


# --- writing ------------------------------------------------------------------------------------


def fail_at(monkeypatch, name: str, target: object, call: int) -> None:
    """Let the function raise at its nth call, as on a full disk."""
    real, calls = getattr(target, name), iter(range(call))

    def failing(*args, **options):
        if next(calls, None) is None:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(target, name, failing)


WRITES = [
    *[("save_file", checkpoint, call) for call in (0, 1)],
    *[("fsync", os, call) for call in range(5)],
    *[("write_bytes", Path, call) for call in (0, 1)],
    *[("mkdir", Path, 0), ("rename", Path, 0), ("sha256", checkpoint, 1)],
]


@pytest.mark.parametrize(
    ("name", "target", "call"), WRITES, ids=[f"{name}-{call}" for name, _, call in WRITES]
)
def test_a_write_that_fails_leaves_nothing_but_the_earlier_folders(
    monkeypatch, saved, trained, tiny, name, target, call
):
    with monkeypatch.context() as patch:
        fail_at(patch, name, target, call)
        with pytest.raises(OSError, match="No space left"):
            save_state(saved.with_name("step-7"), trained)
    assert os.listdir(saved.parent) == [saved.name]
    assert_same(load_state(saved, tiny), trained)
    save_state(saved.with_name("step-7"), trained)
    assert_same(load_state(saved.with_name("step-7"), tiny), trained)


@pytest.mark.parametrize("room", [0, 100, 20_000])
def test_a_disk_that_is_really_full_is_an_os_error(saved, trained, room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state(saved.with_name("step-7"), trained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupt_in_the_middle_leaves_nothing(monkeypatch, tmp_path, tiny):
    def interrupted(path: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "sha256", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "stage", Encoder(tiny, 1), {})
    assert os.listdir(tmp_path) == []


def test_what_a_kill_left_behind_is_cleared_by_the_next_write(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # as if killed before it
        fail_at(patch, "rename", Path, 0)
        with pytest.raises(OSError, match="No space left"):
            write_folder(tmp_path / "stage", {"old": b"1"})
    assert len(os.listdir(tmp_path)) == 1
    write_folder(tmp_path / "stage", {"new": b"2"})
    assert os.listdir(tmp_path) == ["stage"]
    assert set(os.listdir(tmp_path / "stage")) == {"new", "manifest.json"}


def test_a_folder_that_stands_is_replaced_whole(tmp_path):
    write_folder(tmp_path / "stage", {"one": b"1", "two": b"2"})
    write_folder(tmp_path / "stage", {"one": b"3"})
    verify_folder(tmp_path / "stage")
    assert set(os.listdir(tmp_path / "stage")) == {"one", "manifest.json"}
    assert (tmp_path / "stage" / "one").read_bytes() == b"3"


def test_a_write_that_fails_leaves_the_folder_that_it_would_have_replaced(monkeypatch, tmp_path):
    write_folder(tmp_path / "stage", {"one": b"1"})
    fail_at(monkeypatch, "write_bytes", Path, 1)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "stage", {"one": b"3"})
    verify_folder(tmp_path / "stage")
    assert (tmp_path / "stage" / "one").read_bytes() == b"1"


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name(monkeypatch, tmp_path):
    order = []
    flush = files.flush
    monkeypatch.setattr(files, "flush", lambda path: (order.append(path.name), flush(path)))
    write_folder(tmp_path / "stage", {"one": b"1", "two": b"2"})
    assert sorted(order[:-2]) == ["manifest.json", "one", "two"]
    assert order[-2:] == [".stage.tmp", tmp_path.name]
