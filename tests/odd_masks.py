"""One moving shape stored as a mask in every way the odd-inputs table knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from video_files import ffmpeg

NUM_FRAMES, HEIGHT, WIDTH, FPS = 9, 96, 128, 10
BOX_HEIGHT, BOX_WIDTH, TOP, LEFT, STEP = 32, 40, 24, 16, 6

RGB_LAYOUTS = {3: "rgb24", 4: "rgba"}

Build = Callable[[Path], Path]
Array = NDArray[np.uint8]


def truth(num_frames: int = NUM_FRAMES) -> NDArray[np.bool_]:
    """[T, H, W]: a box that moves to the right by STEP pixels a frame."""
    mask = np.zeros((num_frames, HEIGHT, WIDTH), np.bool_)
    for index in range(num_frames):
        mask[index, TOP : TOP + BOX_HEIGHT, LEFT + STEP * index : LEFT + STEP * index + BOX_WIDTH] = True
    return mask


def grey(white: int = 255, num_frames: int = NUM_FRAMES) -> Array:
    return (truth(num_frames) * white).astype(np.uint8)


def rgba(colour: tuple[int, int, int]) -> Array:
    """[T, H, W, 4]: one colour everywhere, the shape in the alpha."""
    return np.concatenate([np.broadcast_to(np.uint8(colour), (*truth().shape, 3)), grey()[..., None]], axis=-1)


def over_black(colour: tuple[int, int, int]) -> Array:
    """[T, H, W, 3]: the shape in one colour."""
    return (truth()[..., None] * np.uint8(colour)).astype(np.uint8)


def two_objects() -> Array:
    """[T, H, W]: number 1 is the upper half of the shape, number 2 the lower."""
    numbers = truth().astype(np.uint8)
    numbers[:, TOP + BOX_HEIGHT // 2 :] *= 2
    return numbers


def davis_palette() -> list[int]:
    """The first colours of DAVIS and VOC: black, dark red, dark green, olive, ..."""
    return [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128]


def video(name: str, *out_args: object, frames: NDArray[Any] | None = None, rate: object = FPS) -> Build:
    """A mask video of `frames`, grey if not given."""

    def build(folder: Path) -> Path:
        data = grey() if frames is None else frames
        layout = "gray16le" if data.dtype == np.uint16 else "gray" if data.ndim == 3 else RGB_LAYOUTS[data.shape[3]]
        raw, path = folder / "mask.raw", folder / name
        raw.write_bytes(data.tobytes())
        size = f"{data.shape[2]}x{data.shape[1]}"
        ffmpeg("-f", "rawvideo", "-pix_fmt", layout, "-s", size, "-r", rate, "-i", raw, *out_args, path)
        raw.unlink()
        return path

    return build


def turned(degrees: int) -> Build:
    """A mask whose pictures lie turned and whose metadata turn them back."""

    def build(folder: Path) -> Path:
        frames = np.ascontiguousarray(np.rot90(grey(), k=degrees // 90, axes=(1, 2)))
        plain = video("plain.mp4", "-c:v", "libx264", "-crf", 5, "-pix_fmt", "yuv420p", frames=frames)(folder)
        ffmpeg("-display_rotation", -degrees, "-i", plain, "-c", "copy", folder / "turned.mp4")
        return folder / "turned.mp4"

    return build


def image(name: str, picture: Callable[[], Image.Image], **options: object) -> Build:
    """A still mask: of the shape in its first place."""

    def build(folder: Path) -> Path:
        picture().save(folder / name, **options)
        return folder / name

    return build


def images(suffix: str, picture: Callable[[int], Image.Image], **options: object) -> Build:
    """A folder of masks, one a frame, whose names sort rightly only as numbers."""

    def build(folder: Path) -> Path:
        (folder / "masks").mkdir()
        for index in range(NUM_FRAMES):
            picture(index).save(folder / "masks" / f"m{index + 5}.{suffix}", **options)
        return folder / "masks"

    return build


def indexed(numbers: Array, palette: list[int]) -> Image.Image:
    picture = Image.frombytes("P", numbers.shape[::-1], numbers.tobytes())
    picture.putpalette(palette)
    return picture


def sixteen_bit(numbers: NDArray[np.uint16]) -> Image.Image:
    return Image.fromarray(numbers.astype(np.uint16))


def cut_out(index: int = 0) -> Image.Image:
    """An object cut out of a picture: its own colours where it is, transparent elsewhere."""
    ramp = np.linspace(0, 200, WIDTH).astype(np.uint8)
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = ramp, 40, 90
    picture[..., 3] = grey()[index]
    return Image.fromarray(picture)


def sideways_tag() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 8
    return exif
