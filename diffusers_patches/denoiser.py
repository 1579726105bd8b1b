"""diffusers' Wan transformers, with VACE blocks or without, as a `hetcache.core.denoiser.Denoiser`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from diffusers_patches.block import BlockInputs, Rope, WanBlockOps
from diffusers_patches.hooks import entered
from hetcache.core.denoiser import Call
from hetcache.core.flops import ModelShape, WorkMeter
from hetcache.core.vocabulary import Grid, Hidden


class WanDenoiser:
    """One expert: a `WanTransformer3DModel` or a `WanVACETransformer3DModel`, inside its own hooks."""

    def __init__(self, transformer: Any) -> None:
        self._model = transformer
        self._config = transformer.config
        self._vace_blocks = getattr(transformer, "vace_blocks", ())
        self.num_layers = len(transformer.blocks)
        self.num_hints = len(self._vace_blocks)
        # The library adds the hints one after the other, whatever order the layers are named in.
        layers = sorted(self._config.vace_layers) if self.num_hints else ()
        self.hint_after: Mapping[int, int] = {layer: hint for hint, layer in enumerate(layers)}

    def shape(self, call: Call) -> ModelShape:
        return model_shape(self._model, call.context.shape[1], call.image_context, call.condition is not None)

    def signals(self, timesteps: torch.Tensor) -> dict[str, torch.Tensor]:
        """`e` is the timestep embedding [T, D], `e0` the projected modulation [T, 6 D], in float32 whatever the model's
        dtype, as TeaCache's authors compute them."""
        embedder = self._model.condition_embedder
        time = embedder.time_embedder
        e_TD = linear_float32(time.linear_1, embedder.timesteps_proj(timesteps.float()))
        e_TD = linear_float32(time.linear_2, time.act(e_TD))
        return {"e": e_TD, "e0": linear_float32(embedder.time_proj, embedder.act_fn(e_TD))}

    def embed_text(self, call: Call) -> torch.Tensor:
        embedder = self._model.condition_embedder
        context_BLD: torch.Tensor = embedder.text_embedder(call.context)
        if call.image_context is None:
            return context_BLD
        return torch.concat([embedder.image_embedder(call.image_context), context_BLD], dim=1)

    def embed(self, call: Call, context_BLD: torch.Tensor) -> Hidden:
        x = self._model.patch_embedding(call.latents_BCFHW)
        x_BND = x.flatten(2).transpose(1, 2)
        if not self.num_hints:
            x_BND = x_BND.contiguous()
        t_BD, t_mod = self._time(call.timestep, call.context.dtype)
        # An image's latents and mask may follow the noisy channels.
        noisy = call.latents_BCFHW[:, : self._config.out_channels]
        return Hidden(x_BND, t_BD, t_mod.unflatten(1, (6, -1)), context_BLD, noisy, Grid(*x.shape[2:]))

    def embed_condition(self, call: Call, hidden: Hidden) -> torch.Tensor:
        c_BND = self._model.vace_patch_embedding(call.condition).flatten(2).transpose(1, 2)
        missing = hidden.x_BND.shape[1] - c_BND.shape[1]
        return torch.cat([c_BND, c_BND.new_zeros(c_BND.shape[0], missing, c_BND.shape[2])], dim=1)

    def rope(self, hidden: Hidden) -> Rope:
        rope: Rope = self._model.rope(hidden.latents_BCFHW)
        return rope

    def inputs(self, hidden: Hidden, rope: Rope, meter: WorkMeter) -> BlockInputs:
        return BlockInputs(hidden.context_BLD, hidden.t_mod_B6D, rope, meter)

    def deviations(self, hidden: Hidden, inputs: BlockInputs) -> dict[str, float]:
        return {}

    @contextmanager
    def block(self, stack: str, layer: int, inputs: BlockInputs) -> Iterator[WanBlockOps]:
        blocks = self._model.blocks if stack == "dit" else self._vace_blocks
        with entered(blocks[layer]):
            yield WanBlockOps(blocks[layer], stack, layer, len(blocks), self._config.ffn_dim, inputs)

    def before_vace(self, ops: WanBlockOps, c_BND: torch.Tensor, x_BND: torch.Tensor) -> torch.Tensor:
        out_BND: torch.Tensor = ops.block.proj_in(c_BND) + x_BND
        return out_BND

    def after_vace(self, ops: WanBlockOps, c_BND: torch.Tensor) -> torch.Tensor:
        hint_BND: torch.Tensor = ops.block.proj_out(c_BND)
        return hint_BND

    def head(self, hidden: Hidden, x_BND: torch.Tensor) -> torch.Tensor:
        model, t_BD, grid = self._model, hidden.t_BD, hidden.grid
        shift, scale = (model.scale_shift_table.to(t_BD.device) + t_BD.unsqueeze(1)).chunk(2, dim=1)
        shift, scale = shift.to(x_BND.device), scale.to(x_BND.device)
        x = model.proj_out((model.norm_out(x_BND.float()) * (1 + scale) + shift).type_as(x_BND))
        x = x.reshape(x.shape[0], grid.frames, grid.height, grid.width, *self._config.patch_size, -1)
        out_BCFHW: torch.Tensor = x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return out_BCFHW

    def _time(self, timesteps: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(embedding, modulation) as `WanTimeTextImageEmbedding` makes them, without the prompt's, which stays the
        same."""
        embedder = self._model.condition_embedder
        projected = embedder.timesteps_proj(timesteps)
        own = next(iter(embedder.time_embedder.parameters())).dtype
        if projected.dtype != own and own != torch.int8:
            projected = projected.to(own)
        t_BD = embedder.time_embedder(projected).to(dtype)
        return t_BD, embedder.time_proj(embedder.act_fn(t_BD))


def linear_float32(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`layer(x)` in float32, without a change of the layer. One that is quantised or carries an adapter computes as it
    does, in its dtype."""
    if type(layer) is not torch.nn.Linear:
        own = next(layer.parameters(), x).dtype
        out: torch.Tensor = layer(x.to(own) if own.is_floating_point else x)
        return out.float()
    with entered(layer):
        weight, bias = layer.weight, layer.bias
        return F.linear(x.to(weight.device), weight.float(), None if bias is None else bias.float())


def model_shape(transformer: Any, text_len: int, image: torch.Tensor | None, vace: bool) -> ModelShape:
    """The dimensions that the FLOPs depend on, with the VACE blocks where they run."""
    config = transformer.config
    return ModelShape(
        dim=config.num_attention_heads * config.attention_head_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        num_vace_layers=len(config.vace_layers) if vace else 0,
        text_len=text_len,
        text_dim=config.text_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels or config.in_channels,
        vace_in_channels=config.vace_in_channels if vace else 0,
        patch_volume=math.prod(config.patch_size),
        image_len=0 if image is None else image.shape[1],
        image_dim=0 if image is None else image.shape[2],
    )
