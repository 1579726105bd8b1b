"""The embedded model's text conditioning: a bag of attribute words instead of umT5.

The words describe what is to be seen inside the mask (brightness, colour, warmth, texture, motion). A word outside
the vocabulary carries no information and is skipped.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

MAX_TOKENS = 16
START, PAD = 1, 0

# Each row is one attribute value, its first word the name that captions use; the rest are synonyms.
ATTRIBUTES: dict[str, tuple[tuple[str, ...], ...]] = {
    "brightness": (
        ("black", "night"),
        ("dark", "shadow", "shadowy"),
        ("medium", "midtone"),
        ("bright", "light", "sunny"),
        ("white", "snow", "snowy"),
    ),
    "colour": (
        ("grey", "gray", "road", "asphalt", "concrete"),
        ("red", "crimson"),
        ("orange", "brown", "wood", "wooden", "sand", "desert"),
        ("yellow", "golden"),
        ("green", "grass", "forest", "leaves"),
        ("cyan", "turquoise"),
        ("blue", "sky", "water", "sea"),
        ("purple", "violet", "pink", "magenta"),
    ),
    "warmth": (("warm",), ("neutral",), ("cold", "cool")),
    "saturation": (("pale", "dull", "muted"), ("colourful", "colorful", "vivid", "saturated")),
    "texture": (("smooth", "plain", "flat", "blurry"), ("soft",), ("textured", "detailed", "rough")),
    "contrast": (("uniform", "even"), ("contrasted", "varied")),
    "motion": (("still", "static", "calm"), ("slow",), ("moving", "motion", "fast")),
    "gradient": (("lighter-top", "horizon"), ("darker-top",)),
}


def _vocabulary() -> dict[str, int]:
    rows = [words for values in ATTRIBUTES.values() for words in values]
    return {word: 2 + row for row, words in enumerate(rows) for word in words}


VOCABULARY = _vocabulary()
VOCABULARY_SIZE = 2 + sum(len(values) for values in ATTRIBUTES.values())


class TinyTokenizer:
    """Maps a prompt to ids of attribute words; the call is that of DiffSynth's `HuggingfaceTokenizer`."""

    def __call__(
        self, prompt: str | list[str], return_mask: bool = False, add_special_tokens: bool = True
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Ids [B, 16] and, when asked, the mask [B, 16] of used positions. A repeated attribute counts once."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        ids = torch.zeros(len(prompts), MAX_TOKENS, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(prompts):
            words = re.findall(r"(?:lighter|darker)-top|[a-z]+", text.lower())
            found = list(dict.fromkeys(VOCABULARY[word] for word in words if word in VOCABULARY))
            tokens = ([START] if add_special_tokens else []) + found
            tokens = tokens[:MAX_TOKENS]
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[row, : len(tokens)] = 1
        return (ids, mask) if return_mask else ids


class TinyTextEncoder(nn.Module):
    """One learnt vector per attribute value: (ids [B, L], mask [B, L]) to embeddings [B, L, text_dim]."""

    def __init__(self, text_dim: int = 64):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY_SIZE, text_dim, padding_idx=PAD)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        out_BLD: Tensor = self.embedding(ids_BL) * mask_BL.unsqueeze(-1).to(self.embedding.weight.dtype)
        return out_BLD
