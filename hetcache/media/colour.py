"""What the numbers of a picture mean: matrix, primaries, transfer and range, as the file says or as players assume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hetcache.media.ffmpeg import VideoError

Range = Literal["tv", "pc"]
UNKNOWN = "unknown"

HDR_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}

# (Kr, Kb) of the luma weights, by ffmpeg's names.
_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}

# The scale filter's names, which differ between versions of ffmpeg for some of ours.
_SCALE_NAMES = {"bt470bg": "bt470bg", "smpte170m": "smpte170m", "bt2020nc": "bt2020"}


@dataclass(frozen=True)
class Colour:
    """`matrix` is "gbr" for RGB. `assumed` names what the file does not say; primaries and transfer that it does not
    say stay "unknown", in the output too."""

    matrix: str = "bt709"
    primaries: str = "bt709"
    transfer: str = "bt709"
    range: Range = "tv"
    assumed: tuple[str, ...] = ()

    @property
    def hdr(self) -> str | None:
        """ "PQ" or "HLG", or None."""
        return HDR_TRANSFERS.get(self.transfer)

    @property
    def weights(self) -> tuple[float, float]:
        """(Kr, Kb): the shares of red and blue in luma."""
        return _WEIGHTS[self.matrix]

    @property
    def scale_matrix(self) -> str:
        """The matrix under the name that ffmpeg's scale filter takes."""
        return _SCALE_NAMES.get(self.matrix, self.matrix)

    def describe(self) -> str:
        """For a person: "BT.709 matrix (assumed) ..."."""
        names = ["full range" if self.range == "pc" else "limited range"]
        for part in ("matrix", "primaries", "transfer"):
            value = getattr(self, part)
            if value != UNKNOWN:
                names.append(f"{part} {value}" + (" (assumed, the file does not say)" if part in self.assumed else ""))
        return ", ".join(names)


BT709 = Colour()
"""What pictures without a source are written as."""


def understand(tags: tuple[str, str, str, str], height: int, width: int, is_rgb: bool, name: str) -> Colour:
    """The colour of a file whose (matrix, primaries, transfer, range) tags ffmpeg prints as these; "unknown" is not
    tagged. Untagged is BT.709 from 720 rows or 1280 columns on and BT.601 below, limited range, as players take it.
    Raises VideoError, which begins with `name`, for a matrix that cannot be converted."""
    matrix, primaries, transfer, span = tags
    assumed = []
    if is_rgb:
        return Colour("gbr", primaries, transfer, "pc")
    if matrix in (UNKNOWN, "reserved", "gbr"):
        matrix = "bt709" if height >= 720 or width >= 1280 else "smpte170m"
        assumed.append("matrix")
    if matrix not in _WEIGHTS:
        raise VideoError(
            f"{name}: its colour matrix {matrix} cannot be converted; re-encode it as BT.709 "
            "(ffmpeg -vf zscale=matrix=709)"
        )
    if span not in ("tv", "pc"):
        assumed.append("range")
    return Colour(matrix, _known(primaries), _known(transfer), "pc" if span == "pc" else "tv", tuple(assumed))


def tag_filter(colour: Colour) -> str:
    """The filter that marks frames. The options -colorspace and the like are ignored by some versions of ffmpeg when
    frames have marks of their own."""
    return (
        f"setparams=range={colour.range}:colorspace={colour.matrix}"
        f":color_primaries={colour.primaries}:color_trc={colour.transfer}"
    )


def _known(value: str) -> str:
    return UNKNOWN if value in ("reserved", "", UNKNOWN) else value
