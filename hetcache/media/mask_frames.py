"""The frames of a mask file as they are stored: transparency, palette indices and 16 bit are kept."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hetcache.media import ffmpeg as ff
from hetcache.media.ffmpeg import VideoError
from hetcache.media.images import list_frames, open_upright, over_black
from hetcache.media.pam import has_alpha, read_pam
from hetcache.media.read import VideoInfo

# Codecs whose decoded values are the ones that were written, so that a 1 is a 1 and not the noise of a 0.
_LOSSLESS_CODECS = ("ffv1", "png", "apng", "gif", "qtrle", "utvideo", "magicyuv", "huffyuv", "ffvhuff", "rawvideo")
_LOSSLESS_IMAGES = ("PNG", "BMP", "TIFF", "PPM", "GIF")
# In a GIF the palette's order is the encoder's: an index names no object there.
_INDEXED_IMAGES = ("PNG", "BMP", "TIFF")
# The decoders that read the transparency which Matroska keeps beside the picture; ffmpeg's own leave it out.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class RawMask:
    """`values` is [H, W, 3] RGB or [H, W, 4] RGBA uint8, [H, W] grey (uint8, or uint16 for deeper ones), or with
    `palette` [N, 4] RGBA uint8 its indices [H, W] uint8. `lossless`: a value is the one that was written."""

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    lossless: bool = True

    @property
    def alpha(self) -> NDArray[np.uint8] | None:
        """[H, W] uint8, None for a frame without transparency."""
        if self.palette is not None:
            alpha_HW: NDArray[np.uint8] = self.palette[self.values, 3]
            return alpha_HW
        return self.values[..., 3] if self.values.ndim == 3 and self.values.shape[2] == 4 else None

    @property
    def colours(self) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 as stored, whatever the transparency."""
        if self.palette is not None:
            return self.palette[self.values, :3]
        if self.values.ndim == 3:
            return np.ascontiguousarray(self.values[..., :3])
        return np.repeat(to_8_bit(self.values)[..., None], 3, axis=2)

    @property
    def without_colour(self) -> bool:
        """Whether this is RGB of equal channels."""
        if self.values.ndim != 3 or self.values.shape[2] != 3:
            return False
        red, green, blue = (self.values[..., channel] for channel in range(3))
        return bool((red == green).all() and (green == blue).all())

    def plane(self, name: str) -> NDArray[Any]:
        """[H, W] of "luma" (0.299 R + 0.587 G + 0.114 B), "red", "green", "blue", "alpha" as stored; "seen" and
        "brightest", luma and largest channel of the picture laid over black; or "index". Grey keeps its depth."""
        if name == "index":
            return self.values
        if name == "alpha":
            alpha = self.alpha
            return np.full(self.values.shape[:2], 255, np.uint8) if alpha is None else alpha
        if self.values.ndim == 2 and self.palette is None:
            return self.values
        if name in ("red", "green", "blue"):
            return self.colours[..., ("red", "green", "blue").index(name)]
        over = self.colours if name == "luma" or self.alpha is None else over_black(self._rgba())
        return over.max(axis=2) if name == "brightest" else np.asarray(Image.fromarray(over).convert("L"))

    def _rgba(self) -> NDArray[np.uint8]:
        return self.values if self.palette is None else self.palette[self.values]


def to_8_bit(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey of 8 or 16 bit as 8 bit."""
    if grey.dtype == np.uint8:
        return grey
    return ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def iter_raw_masks(info: VideoInfo, step: int = 1) -> Generator[RawMask, None, None]:
    """Every `step`th frame of a mask, in memory that does not grow. Raises VideoError, as iter_frames() does."""
    return _stills(info, step) if info.kind != "video" else _video(info, step)


def _stills(info: VideoInfo, step: int) -> Generator[RawMask, None, None]:
    for file in ([info.path] if info.kind == "image" else list_frames(info.path, "mask"))[::step]:
        frame = read_raw_image(file)
        height, width = frame.values.shape[:2]
        if (height, width) != (info.height, info.width):
            sizes = f"is {width}x{height}, the first frame {info.width}x{info.height}"
            raise VideoError(f"mask {file}: {sizes}; give frames of one size")
        yield frame


def read_raw_image(path: Path) -> RawMask:
    """One still mask. Raises VideoError."""
    with closing(open_upright(path, "mask")) as image:
        try:
            return _raw(image, image.info["stored_as"])
        except Exception as error:
            # Damaged files make decoders raise almost anything.
            raise VideoError(f"mask {path}: cannot be decoded ({error}); save it again as PNG") from error


def _raw(image: Image.Image, kind: str) -> RawMask:
    lossless = kind in _LOSSLESS_IMAGES
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode == "P" and kind in _INDEXED_IMAGES:
        palette = np.asarray(image.convert("RGBA")).reshape(-1, 4)
        indices = np.array(image)
        table = np.zeros((256, 4), np.uint8)
        table[indices.ravel()] = palette
        return RawMask(indices, table, lossless)
    if image.mode.startswith("I"):
        return RawMask(np.asarray(image).astype(np.int64).clip(0, 65535).astype(np.uint16), None, lossless)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return RawMask(np.array(image.convert("RGBA")), None, lossless)
    if image.mode in ("1", "L"):
        return RawMask(np.array(image.convert("L")), None, lossless)
    return RawMask(np.array(image.convert("RGB")), None, lossless)


def _video(info: VideoInfo, step: int) -> Generator[RawMask, None, None]:
    lossless = info.codec in _LOSSLESS_CODECS
    deep = lossless and info.pix_fmt.startswith("gray") and info.pix_fmt != "gray"
    alpha = info.alpha_beside or has_alpha(info.pix_fmt)
    args = [*ff.base_args(), "-max_pixels", str(ff.MAX_SIDE**2)]
    if info.alpha_beside:
        args += ["-c:v", ALPHA_DECODERS[info.codec]]
    args += [*ff.input_args(info.path), "-map", "0:V:0"]
    if step > 1:
        args += ["-vf", f"select=not(mod(n\\,{step}))"]
    args += ["-fps_mode", "passthrough", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
    args += ["-pix_fmt", "gray16be" if deep else "rgba" if alpha else "rgb24", "-c:v", "pam", "-f", "image2pipe", "-"]
    num_frames = 0
    with ff.spawn(args, feed=False) as (process, log):
        assert process.stdout is not None
        while (frame := read_pam(process.stdout, info.path, "mask")) is not None:
            num_frames += 1
            if frame.shape[:2] != (info.height, info.width):
                sizes = f"{frame.shape[1]}x{frame.shape[0]}, its header says {info.width}x{info.height}"
                raise VideoError(f"mask {info.path}: frame {num_frames} is {sizes}; re-encode it")
            yield RawMask(frame[..., 0] if deep else frame, None, lossless)
        if process.wait() != 0 and num_frames == 0:
            cause = ff.reason(ff.read_log(log))
            if info.alpha_beside and "decoder" in cause:
                needed = ALPHA_DECODERS[info.codec]
                raise VideoError(f"mask {info.path}: its alpha needs ffmpeg's decoder {needed}, which is not there")
            raise VideoError(f"mask {info.path}: no frame can be decoded ({cause}); re-encode it as MP4")
