"""Frame counts and picture sizes that the model takes."""

from __future__ import annotations

from hetcache.media.ffmpeg import MAX_SIDE, VideoError


def largest_4k_plus_1(count: int) -> int:
    """The largest number of frames that Wan takes and that is at most `count`; 0 for none."""
    return (count - 1) // 4 * 4 + 1 if count > 0 else 0


def smallest_4k_plus_1(count: int) -> int:
    """The smallest number of frames that Wan takes and that is at least `count`, which is positive."""
    return count + -(count - 1) % 4


def check_frame_count(num_frames: int, name: str = "--frames") -> None:
    """Raises VideoError, naming the nearest valid counts, unless `num_frames` is 4k + 1."""
    if num_frames >= 1 and num_frames % 4 == 1:
        return
    below = largest_4k_plus_1(max(num_frames, 1))
    nearest = str(below) if num_frames < 1 else f"{below} or {below + 4}"
    raise VideoError(f"{name} {num_frames}: the model takes 4k+1 frames, nearest {nearest}")


def check_side(name: str, value: int) -> None:
    """Raises VideoError, naming the nearest valid values, unless `value` is a positive multiple of 16 up to
    MAX_SIDE."""
    if 0 < value <= MAX_SIDE and value % 16 == 0:
        return
    if value > MAX_SIDE:
        raise VideoError(f"--{name} {value}: at most {MAX_SIDE}")
    below = value // 16 * 16
    nearest = "16" if below <= 0 else f"{below} or {below + 16}"
    raise VideoError(f"--{name} {value}: the model takes multiples of 16, nearest {nearest}")
