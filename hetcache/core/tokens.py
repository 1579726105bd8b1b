"""Token classes of a masked video: generative, margin and context tokens on the latent grid (pure functions).

HetCache (arXiv 2603.24260, section 3) splits the tokens by their place relative to the mask. A token covers one
latent patch: 16 x 16 pixels and one frame group of Wan's VAE (frame 0 alone, then four frames each).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from hetcache.core.vocabulary import Grid

PATCH_PX = 16
FRAMES_PER_LATENT = 4
REFERENCE_GRID_HEIGHT = 30
REFERENCE_MARGIN_WIDTH = 5


@dataclass(frozen=True)
class Margin:
    """How far from the mask a token is margin: within `width` tokens in space (None: `default_margin_width`), in a
    square or, `is_round`, by distance, and within `frames` latent frames in time."""

    width: int | None = None
    frames: int = 1
    is_round: bool = False


@dataclass(frozen=True)
class TokenClasses:
    """Ascending int64 token indices of each class; together they are every token exactly once. `reference_R` are those
    of reference images, whose latent frames stand before the video's: they have no mask."""

    grid: Grid
    generative_G: torch.Tensor
    margin_M: torch.Tensor
    context_C: torch.Tensor
    reference_R: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def num_tokens(self) -> int:
        return self.grid.num_tokens

    def labels_FHW(self) -> torch.Tensor:
        """uint8 [F, H, W] map on the CPU: 0 context, 1 margin, 2 generative, 3 reference."""
        labels = torch.zeros(self.num_tokens, dtype=torch.uint8)
        labels[self.margin_M.cpu()] = 1
        labels[self.generative_G.cpu()] = 2
        labels[self.reference_R.cpu()] = 3
        return labels.view(self.grid.frames, self.grid.height, self.grid.width)

    def behind(self, reference_frames: int) -> TokenClasses:
        """These classes behind as many latent frames of reference images."""
        if reference_frames == 0:
            return self
        grid = self.grid
        ahead = reference_frames * grid.height * grid.width
        return TokenClasses(
            Grid(grid.frames + reference_frames, grid.height, grid.width),
            self.generative_G + ahead,
            self.margin_M + ahead,
            self.context_C + ahead,
            torch.arange(ahead, device=self.context_C.device),
        )


def latent_frames(num_frames: int) -> int:
    """1 + 4k video frames are 1 + k latent frames."""
    return (num_frames - 1) // FRAMES_PER_LATENT + 1


def default_margin_width(grid: Grid) -> int:
    """The paper's 5 tokens at 30 rows (480p), scaled with the grid and at least 1: on a small grid 5 tokens would
    leave no context at all."""
    return max(1, round(REFERENCE_MARGIN_WIDTH * min(grid.height, grid.width) / REFERENCE_GRID_HEIGHT))


def mask_to_grid(mask_THW: torch.Tensor) -> torch.Tensor:
    """Bool [F, H / 16, W / 16]: does the mask touch any pixel of any frame that the token covers?

    Raises ValueError unless T = 4k + 1 and height and width are multiples of 16.
    """
    num_frames, height, width = mask_THW.shape
    if num_frames % FRAMES_PER_LATENT != 1 or height % PATCH_PX or width % PATCH_PX:
        raise ValueError(
            f"mask of {num_frames} frames, {height}x{width}: frames must be 4k+1, height and width multiples of 16"
        )
    touched_THW = F.max_pool2d(mask_THW.float().unsqueeze(1), PATCH_PX).squeeze(1)
    groups = [touched_THW[:1]]
    if num_frames > 1:
        rest = touched_THW[1:]
        groups.append(rest.view(-1, FRAMES_PER_LATENT, *rest.shape[1:]).amax(dim=1))
    return torch.cat(groups) > 0


def dilate(mask_FHW: torch.Tensor, width: int, frames: int, is_round: bool = False) -> torch.Tensor:
    """Bool [F, H, W] grown by `width` tokens in both spatial directions (a square, or the disc in it) and `frames` in
    time."""
    size = (2 * frames + 1, 2 * width + 1, 2 * width + 1)
    if not is_round:
        return F.max_pool3d(mask_FHW.float()[None, None], size, 1, (frames, width, width))[0, 0] > 0
    offsets = torch.arange(-width, width + 1, device=mask_FHW.device)
    disc_HW = offsets.view(-1, 1).square() + offsets.square() <= width**2
    kernel = disc_HW.float().expand(size)[None, None]
    return F.conv3d(mask_FHW.float()[None, None], kernel, padding=(frames, width, width))[0, 0] > 0.5


def classify(
    mask_THW: torch.Tensor, margin_width: int | Margin | None = None, margin_frames: int = 1, reference_frames: int = 0
) -> TokenClasses:
    """Token classes of a mask (bool or 0/1, [T, H, W], nonzero = edit) on the mask's device.

    Generative: the mask touches the token. Margin: within `margin_width` tokens (default: `default_margin_width`)
    and `margin_frames` latent frames of a generative one, or as a `Margin` says. Context: the rest.
    `reference_frames` latent frames of reference images come before them all. Raises ValueError as `mask_to_grid`.
    """
    generative_FHW = mask_to_grid(mask_THW)
    grid = Grid(*generative_FHW.shape)
    margin = margin_width if isinstance(margin_width, Margin) else Margin(margin_width, margin_frames)
    width = default_margin_width(grid) if margin.width is None else margin.width
    near_FHW = dilate(generative_FHW, width, margin.frames, margin.is_round)

    def indices(selected_FHW: torch.Tensor) -> torch.Tensor:
        return selected_FHW.flatten().nonzero().squeeze(1)

    margin_M, context_C = indices(near_FHW & ~generative_FHW), indices(~near_FHW)
    return TokenClasses(grid, indices(generative_FHW), margin_M, context_C).behind(reference_frames)
