"""What is measured, and how a batch is divided."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import TINY

from mslt.config import Config
from mslt.data.store import TokenStore
from mslt.data.tokenizer import read_vocabulary
from mslt.job import Job, fitting_micro_batch, hidden_only, log_frequencies, unigram_loss
from mslt.trainer import Trainer


@pytest.mark.parametrize(
    ("batch", "seq_len", "micro"), [(97, 128, 25), (96, 128, 32), (8, 128, 8), (3, 8192, 1)]
)
def test_micro_batches_are_nearly_equal_parts_that_fit(
    batch: int, seq_len: int, micro: int
) -> None:
    config = Config(batch_size=batch)
    assert fitting_micro_batch(config, seq_len, "cpu") == micro
    assert fitting_micro_batch(replace(config, micro_batch=2), seq_len, "cpu") == 2


def test_the_unigram_loss_is_that_of_counting(store: Path) -> None:
    opened = TokenStore.open(store)
    job = Job.prepare(TINY, opened)
    counts = opened.unigrams + 1.0
    total, number = 0.0, 0
    for batch in job.heldout:
        for ids, weights in zip(batch.masked_ids, batch.masked_weights):
            for piece, weight in zip(ids, weights):
                if weight:
                    total -= float(torch.log(torch.tensor(counts[piece] / counts.sum())))
                    number += 1
    assert unigram_loss(log_frequencies(opened.unigrams), job.heldout) == pytest.approx(
        total / number, rel=1e-5
    )


def test_the_held_out_predictions_are_those_of_hidden_tokens(store: Path) -> None:
    opened = TokenStore.open(store)
    mask = read_vocabulary(store / "tokenizer").mask
    (batch,) = Job.prepare(TINY, opened).heldout
    rows, slots = batch.masked_weights.nonzero()
    assert len(rows) == (batch.input_ids == mask).sum() > 0
    assert (batch.input_ids[rows, batch.masked_positions[rows, slots]] == mask).all()
    nothing = hidden_only(replace(batch, input_ids=batch.input_ids * 0), mask)
    with pytest.raises(ValueError, match=r"no token is hidden .*: raise eval_batches"):
        unigram_loss(log_frequencies(opened.unigrams), [nothing])


def test_training_instances_repeat_and_held_out_ones_do_not(store: Path) -> None:
    repeating = replace(TINY, eval_batches=40, instances=replace(TINY.instances, dupe_factor=1))
    once, again = (
        Job.prepare(config, TokenStore.open(store))
        for config in (replace(TINY, eval_batches=40), repeating)
    )
    assert again.instances.period(32) < 200
    assert len({batch.input_ids.tobytes() for batch in again.heldout}) == 40
    for one, two in zip(once.heldout, again.heldout):
        assert (one.input_ids == two.input_ids).all()


def test_the_local_start_begins_at_the_loss_of_the_tokens_own_frequencies(store: Path) -> None:
    opened = TokenStore.open(store)
    model = replace(TINY.model, initializer="local")
    job = Job.prepare(replace(TINY, model=model), opened)
    state = job.first_state()
    trainer = Trainer(state.model, job.settings(0), {}, job.world)
    assert trainer.evaluate(job.heldout)["mlm_loss"] == pytest.approx(job.baseline, abs=0.3)
