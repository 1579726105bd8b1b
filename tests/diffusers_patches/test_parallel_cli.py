"""A folder in diffusers' layout under torchrun: two processes write what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers_runs import TEXT_DIM, build

import inference

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--frames", "5", "--height", "48", "--width", "64", "--steps", "6", "--mode", "adacache", "--device", "cpu"]
pytestmark = pytest.mark.slow


def save(path: Path) -> None:
    """A tiny pipeline with a text encoder of its own and a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "natural": 3}, "<unk>"))
    words.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    pipe = build(sampler="unipc")
    config = UMT5Config(vocab_size=8, d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    del pipe.vae.encode
    parts = {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=words, **special),
        "text_encoder": UMT5EncoderModel(config).eval(),
    }
    type(pipe)(**{**pipe.components, **parts}).save_pretrained(path)


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    model = tmp_path / "wan-vace-diffusers"
    save(model)
    words = [*SMALL, "--model", str(model), "--prompt", "natural"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = [str(ROOT / "inference.py"), *words, "--output", str(tmp_path / "together.mp4"), "--parallel", "cfg"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([*run, *together], check=True, cwd=tmp_path, env=environment, timeout=150)
    assert inference.main([*words, "--output", str(tmp_path / "alone.mp4")]) == 0
    assert (tmp_path / "together.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    record = json.loads((tmp_path / "together.json").read_text())
    assert record["notes"]["parallel"]["ranks"] == 2
