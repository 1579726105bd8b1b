"""Prompt embeddings on disk, and the stand-in for the text encoder."""

from __future__ import annotations

import pytest
import torch

from hetcache.models.prompts import PromptBook, PromptStore


def test_store_returns_what_was_put_for_this_encoder_and_prompt_only(tmp_path):
    store = PromptStore("encoder a", tmp_path)
    embedding = torch.randn(5, 8)
    store.put("a lawn", embedding)
    assert torch.equal(store.get("a lawn"), embedding)
    assert store.get("a lawn ") is None
    assert PromptStore("encoder b", tmp_path).get("a lawn") is None
    assert store.has_all(["a lawn"])
    assert not store.has_all(["a lawn", "a road"])


def test_a_damaged_file_counts_as_absent(tmp_path):
    store = PromptStore("e", tmp_path)
    store.put("p", torch.ones(2, 3))
    next(tmp_path.glob("*.safetensors")).write_bytes(b"nonsense")
    assert store.get("p") is None


def test_the_book_gives_a_pipeline_the_same_context_as_the_encoder(pipe):
    from diffsynth.pipelines.wan_video import WanVideoUnit_PromptEmbedder

    from diffsynth_patches.loader import _embed

    unit, prompts = WanVideoUnit_PromptEmbedder(), ["bright blue", "dark"]
    expected = [unit.encode_prompt(pipe, prompt) for prompt in prompts]
    book = PromptBook({p: _embed(pipe, p) for p in prompts}, text_len=expected[0].shape[1])

    class Holder:
        device, text_encoder, tokenizer = "cpu", book, staticmethod(book.tokenize)

    for prompt, context in zip(prompts, expected, strict=True):
        assert torch.equal(unit.encode_prompt(Holder, prompt), context)
    with pytest.raises(KeyError, match="not embedded"):
        book.tokenize("something else")
