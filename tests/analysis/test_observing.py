"""Attention and hidden states are those that transformers computes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from mslt.analysis.attention import held_out, observe, tokenised
from mslt.config import ModelConfig
from mslt.data import tokenizer as tokenizers
from mslt.data.store import TokenStore
from mslt.model import Encoder
from mslt.pretrained import open_model
from mslt.run import Run

TEXTS = ["the capital of France is Paris.", "Paris."]


def test_attention_and_hidden_states_equal_those_of_transformers(exported: Path) -> None:
    ours = open_model(exported)
    sentences = tokenised(TEXTS, ours.tokenizer)
    assert len(set(sentences.lengths)) == 2  # one is padded
    theirs = AutoModel.from_pretrained(exported, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs(
            sentences.ids_BL,
            attention_mask=sentences.seen_BL.long(),
            token_type_ids=sentences.segments_BL,
            output_attentions=True,
            output_hidden_states=True,
        )
    observed = observe(ours.model, sentences)
    weights, hidden = torch.stack(expected.attentions), torch.stack(expected.hidden_states)
    assert observed.weights_NBHLL.shape == weights.shape
    assert (observed.weights_NBHLL - weights).abs().max() < 1e-5
    assert (observed.hidden_NBLD - hidden).abs().max() < 1e-5


def test_rows_sum_to_one_and_nobody_looks_at_padding(finished: Run) -> None:
    ours = open_model(finished.path)
    sentences = tokenised(TEXTS, ours.tokenizer)
    weights = observe(ours.model, sentences).weights_NBHLL
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-6)
    assert not weights[:, 1, :, :, sentences.lengths[1] :].any()


def test_the_last_hidden_state_is_the_models_own_and_training_mode_stays(finished: Run) -> None:
    ours = open_model(finished.path)
    sentences = tokenised(TEXTS, ours.tokenizer)
    observed = observe(ours.model.train(), sentences)
    assert ours.model.training
    with torch.no_grad():
        hidden = ours.model.eval().hidden(
            sentences.ids_BL, sentences.segments_BL, sentences.seen_BL
        )
    assert torch.equal(observed.hidden_NBLD[-1], hidden)


def test_layers_that_share_a_block_are_observed_one_by_one(exported: Path) -> None:
    config = ModelConfig(
        vocab_size=15,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        embedding_size=16,
        num_hidden_groups=2,
    )
    sentences = tokenised(TEXTS, exported)
    observed = observe(Encoder(config), sentences)
    assert len(observed.weights_NBHLL) == 4
    assert not torch.equal(observed.weights_NBHLL[0], observed.weights_NBHLL[1])


def test_the_held_out_sample_is_the_text_without_masks(store: Path) -> None:
    opened = TokenStore.open(store)
    sample = held_out(opened, 6, 24)
    text = " ".join(map(str, opened.heldout.tokens.tolist()))
    mask = tokenizers.load(store / "tokenizer").token_to_id("[MASK]")
    assert not (sample.ids_BL == mask).any()
    assert sample.segments_BL.any()  # pairs, as in training
    for ids, length, tokens in zip(sample.ids_BL.tolist(), sample.lengths, sample.tokens):
        first = ids[1 : tokens.index("[SEP]")]
        assert " ".join(map(str, first)) in text
        assert len(tokens) == length
    part = sample[1:3]
    assert part.tokens == sample.tokens[1:3]
    assert part.ids_BL.shape == (2, max(sample.lengths[1:3]))


def test_texts_and_vocabularies_that_do_not_fit_are_refused(finished: Run) -> None:
    ours = open_model(finished.path)
    with pytest.raises(ValueError, match="no text"):
        tokenised([], ours.tokenizer)
    with pytest.raises(ValueError, match="no token"):
        tokenised([" "], ours.tokenizer)
    other = Encoder(ModelConfig(vocab_size=6, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ValueError, match="another vocabulary"):
        observe(other, tokenised(TEXTS, ours.tokenizer))
    with pytest.raises(ValueError, match="positions"):
        observe(ours.model, tokenised(["paris " * 60], ours.tokenizer))
