"""Prompt embeddings on disk, so that a repeated prompt never loads the 11 GB text encoder.

A file per (text encoder id, prompt) holds the rows of real tokens; padding rows are zero by DiffSynth's convention
and are not stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hetcache.files import atomic_output, cache_folder, digest


class PromptStore:
    """Embeddings of one text encoder. A file that cannot be read counts as absent and is written anew."""

    def __init__(self, encoder_id: str, folder: Path | None = None) -> None:
        self.encoder_id = encoder_id
        self.folder = folder or cache_folder() / "prompts"

    def get(self, prompt: str) -> torch.Tensor | None:
        """[tokens, D], or None when this prompt was not embedded by this encoder."""
        path = self._path(prompt)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                known = file.metadata() or {}
                if (known.get("encoder"), known.get("prompt")) != (self.encoder_id, prompt):
                    return None
                embedding_LD: torch.Tensor = file.get_tensor("embedding")
                return embedding_LD
        except (SafetensorError, OSError):
            return None

    def put(self, prompt: str, embedding_LD: torch.Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_output(self._path(prompt)) as temporary:
            save_file(
                {"embedding": embedding_LD.cpu().contiguous()},
                temporary,
                metadata={"encoder": self.encoder_id, "prompt": prompt},
            )

    def has_all(self, prompts: Iterable[str]) -> bool:
        return all(self.get(prompt) is not None for prompt in prompts)

    def _path(self, prompt: str) -> Path:
        return self.folder / f"{digest(self.encoder_id, chr(0), prompt)[:32]}.safetensors"


class PromptBook(torch.nn.Module):
    """Stands in for tokenizer and text encoder of a `WanVideoPipeline`, for the prompts that it was given.

    `tokenize(prompt)` returns the prompt's number as its ids and a mask of its length; `forward(ids, mask)` returns
    [1, text_len, D]. An unknown prompt raises KeyError: nothing is embedded silently by something else.
    """

    def __init__(self, embeddings: dict[str, torch.Tensor], text_len: int = 512) -> None:
        super().__init__()
        self._prompts = list(embeddings)
        self._embeddings = [embeddings[prompt] for prompt in self._prompts]
        self._text_len = text_len

    def tokenize(
        self, prompt: str, return_mask: bool = True, add_special_tokens: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if prompt not in self._prompts:
            raise KeyError(f"prompt {prompt!r} was not embedded when the pipeline was loaded")
        index = self._prompts.index(prompt)
        mask = torch.zeros(1, self._text_len, dtype=torch.int64)
        mask[0, : len(self._embeddings[index])] = 1
        return torch.full((1, self._text_len), index), mask

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows_LD = self._embeddings[int(ids[0, 0])].to(ids.device)
        padding = rows_LD.new_zeros(self._text_len - len(rows_LD), rows_LD.shape[1])
        return torch.cat([rows_LD, padding]).unsqueeze(0)
