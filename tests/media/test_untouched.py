"""What the mask does not touch keeps its planes, whatever the format; HDR, fields and damage by their rules."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from deliveries import delivered
from other_tools import ffprobe, raw_planes, rgb, stream, tags
from PIL import Image
from video_files import ffmpeg

from hetcache.media.ffmpeg import VideoError
from hetcache.media.hdr import from_sdr, to_sdr
from hetcache.media.header import parse_header
from hetcache.media.options import InputOptions
from hetcache.media.probe import probe, scanned, truncation
from hetcache.media.read import read_frames
from hetcache.media.result import look_of, notes_of
from hetcache.media.source import Source

SIZE = (96, 128)
MASK = np.zeros(SIZE, np.bool_)
MASK[30:61, 41:90] = True
EDIT = np.full((6, *SIZE, 3), (40, 180, 90), np.uint8)
FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]


def made(folder: Path, pix_fmt: str, *args: str, more: str = "null") -> Path:
    path = folder / "source.mkv"
    span = "pc" if pix_fmt == "yuvj420p" else "tv"
    source = f"testsrc2=s=128x96:r=10:d=0.6,format={pix_fmt},setparams=range={span},{more}"
    # FFV1 has no full range.
    codec = ["libx264", "-qp", "0"] if span == "pc" else ["ffv1"]
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", *codec, *args, path)
    return path


def outside(pix_fmt: str, feather_px: int = 4) -> list[np.ndarray]:
    """For each plane, the samples that mask and feather cannot reach."""
    grown = np.zeros(SIZE, np.bool_)
    grown[30 - feather_px - 2 : 61 + feather_px + 2, 41 - feather_px - 2 : 90 + feather_px + 2] = True
    coarse = grown
    if "420" in pix_fmt or "422" in pix_fmt:
        coarse = coarse[:, ::2] | coarse[:, 1::2]
    if "420" in pix_fmt:
        coarse = coarse[::2] | coarse[1::2]
    return [~grown, ~coarse, ~coarse]


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("more", ["null", "setfield=tff"])
def test_lossless_keeps_every_plane_outside_to_the_bit(tmp_path: Path, pix_fmt: str, more: str) -> None:
    video = made(tmp_path, pix_fmt, more=more)
    out = delivered(video, 6, MASK, EDIT, feather_px=4, lossless=True)
    assert stream(out)["pix_fmt"] == pix_fmt
    before, after = raw_planes(video, pix_fmt, SIZE, 6), raw_planes(out, pix_fmt, SIZE, 6)
    for old, new, keep in zip(before, after, outside(pix_fmt), strict=True):
        assert old.shape == new.shape and np.array_equal(old[:, keep], new[:, keep])
        assert not np.array_equal(old[:, ~keep], new[:, ~keep])
    span = "pc" if pix_fmt == "yuvj420p" else "tv"
    painted = rgb(out, "bt601", span, SIZE, 6)[:, 36:55, 50:80].astype(int)
    assert np.abs(painted - EDIT[0, 0, 0]).max() <= 2


def test_the_default_of_a_short_clip_is_close_to_the_source(tmp_path: Path) -> None:
    video = made(tmp_path, "yuv422p10le")
    out = delivered(video, 6, MASK, EDIT, feather_px=4)
    before, after = raw_planes(video, "yuv422p10le", SIZE, 6), raw_planes(out, "yuv422p10le", SIZE, 6)
    keep = outside("yuv422p10le")[0]
    error = before[0][:, keep].astype(float) - after[0][:, keep]
    assert 10 * np.log10(1023**2 / (error**2).mean()) > 42


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_stays_hdr_and_the_edit_goes_back_by_the_curve(tmp_path: Path, transfer: str, name: str) -> None:
    marks = f"setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    video = made(tmp_path, "yuv420p10le", more=marks)
    assert probe(video).colour.hdr == name
    seen = read_frames(video)
    out = delivered(video, 6, MASK, seen, lossless=True)
    assert tags(out) == ("bt2020nc", "bt2020", transfer, "tv")
    before, after = raw_planes(video, "yuv420p10le", SIZE, 6), raw_planes(out, "yuv420p10le", SIZE, 6)
    assert np.array_equal(before[0][:, ~MASK], after[0][:, ~MASK])
    grey = np.repeat(np.arange(16, 231, dtype=np.uint8)[None, :, None], 3, axis=2)
    signal = np.rint(from_sdr(grey, probe(video).colour) * 65535).astype(np.uint16)
    assert np.abs(to_sdr(signal, probe(video).colour).astype(int) - grey).max() <= 1


def test_reference_white_is_where_bt2408_puts_it(tmp_path: Path) -> None:
    marks = "setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084"
    # 203 cd/m2 is 58% of PQ: 64 + 0.58 * 876 of 10 bit; the tone map shows it as 0.82 of white's light.
    path = tmp_path / "white.mkv"
    level = round(64 + 0.5807 * 876)
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"color=gray:s=32x32:d=0.2,format=yuv420p10le,geq=lum={level}:cb=512:cr=512,{marks}",
        "-c:v",
        "ffv1",
        path,
    )
    shown = read_frames(path)[0, 16, 16]
    assert np.abs(shown.astype(int) - round(255 * 0.818 ** (1 / 2.4))).max() <= 2


def test_interlaced_is_written_interlaced(tmp_path: Path) -> None:
    for order, first in (("tff", 1), ("bff", 0)):
        video = made(tmp_path, "yuv420p", more=f"setfield={order}")
        out = delivered(video, 6)
        frames = ffprobe(out, "-show_frames", "-select_streams", "v:0")["frames"]
        assert {(f["interlaced_frame"], f["top_field_first"]) for f in frames} == {(1, first)}


def test_a_file_cut_in_half_is_warned_about_and_refused_if_strict(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=128x96:r=10:d=5", "-c:v", "libx264", "-movflags", "+faststart", whole)
    assert truncation(scanned(probe(whole))) is None
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    said = truncation(scanned(probe(cut)))
    assert said is not None and "of the 5.00 s that its header promises" in said and "% is missing" in said
    Image.fromarray(MASK).save(tmp_path / "m.png")
    Source.open(cut, tmp_path / "m.png")
    with pytest.raises(VideoError, match="% is missing"):
        Source.open(cut, tmp_path / "m.png", InputOptions(strict=True))


def test_more_than_ten_bit_is_not_called_lossless(tmp_path: Path) -> None:
    video = made(tmp_path, "yuv420p12le")
    with pytest.raises(VideoError, match="--lossless: .* has 12 bit"):
        delivered(video, 3, lossless=True)
    assert stream(delivered(video, 3))["pix_fmt"] == "yuv420p10le"


def test_pictures_in_pages_and_raw_motion_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = (Image.new("RGB", (64, 48), (60 * index, 0, 0)) for index in range(4))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=rest)
    with pytest.raises(VideoError, match=r"holds 4 pictures in one TIFF; save them as PNG"):
        probe(tmp_path / "pages.tif")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.5", "-c:v", "mjpeg", "-f", "mjpeg", tmp_path / "raw.mjpeg")
    assert len(read_frames(tmp_path / "raw.mjpeg")) == 5
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(VideoError, match=r"ffmpeg .*nowhere: cannot be run \(No such file.*set IMAGEIO_FFMPEG_EXE"):
        probe(tmp_path / "raw.mjpeg")


def test_an_image_may_be_outpainted(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "still.png")
    source = Source.open(tmp_path / "still.png", None, InputOptions(outpaint=(16, 0, 0, 0)))
    assert source.timeline(1).rate == 16


@pytest.mark.parametrize("pix_fmt", ["gbrp", "bgr0"])
def test_lossless_keeps_rgb(tmp_path: Path, pix_fmt: str) -> None:
    video = tmp_path / "source.mkv"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=128x96:r=10:d=0.6,format={pix_fmt}", "-c:v", "ffv1", video)
    out = delivered(video, 6, MASK, EDIT, feather_px=4, lossless=True)
    assert stream(out)["pix_fmt"] == "gbrp"
    before, after = (rgb(path, "bt709", "pc", SIZE, 6) for path in (video, out))
    keep = outside("yuv444p")[0]
    assert np.array_equal(before[:, keep], after[:, keep])
    assert np.array_equal(after[:, MASK], EDIT[:, MASK])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le"])
@pytest.mark.parametrize("sides", [(16, 8, 0, 24), (15, 7, 0, 1)])
def test_lossless_keeps_what_is_widened(tmp_path: Path, pix_fmt: str, sides: tuple[int, int, int, int]) -> None:
    video, feather_px = made(tmp_path, pix_fmt), 4
    left, top, right, bottom = sides
    wide = (SIZE[0] + top + bottom, SIZE[1] + left + right)
    edited = np.full((6, *wide, 3), (40, 180, 90), np.uint8)
    options = InputOptions(outpaint=sides)
    out = delivered(video, 6, None, edited, feather_px, lossless=True, options=options)
    # Odd offsets lie between two chroma samples: chroma becomes full, luma stays.
    full = left % 2 or (top % 2 and "420" in pix_fmt)
    written = pix_fmt.replace("420", "444").replace("422", "444") if full else pix_fmt
    assert stream(out)["pix_fmt"] == written
    before, after = raw_planes(video, pix_fmt, SIZE, 6), raw_planes(out, written, wide, 6)
    planes = (0,) if full else (0, 1, 2)
    for plane in planes:
        rows, columns = ((1, 1), (2 if "420" in pix_fmt else 1, 2))[plane > 0]
        old, new = before[plane], after[plane]
        inside = np.zeros(SIZE, np.bool_)
        margin = [0 if side == 0 else feather_px + 2 for side in sides]
        inside[margin[1] : SIZE[0] - margin[3], margin[0] : SIZE[1] - margin[2]] = True
        keep = inside[::rows, ::columns]
        y, x = top // rows, left // columns
        moved = new[:, y : y + old.shape[1], x : x + old.shape[2]]
        assert np.array_equal(old[:, keep], moved[:, keep])
    painted = rgb(out, "bt601", "tv", wide, 6)[:, : max(top - 4, 1), :4].astype(int)
    assert np.abs(painted - (40, 180, 90)).max() <= 2


DISPLAY = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(40000000,50)"


@pytest.mark.parametrize("transfer", ["smpte2084", "bt709"])
def test_hdr10_metadata_are_kept_with_hdr(tmp_path: Path, transfer: str) -> None:
    video = tmp_path / "source.mp4"
    marks = f"setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    params = f"mastering-display={DISPLAY}:cll=1000,400"
    codec = ["-c:v", "libx264", "-qp", "0", "-x264-params", params]
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=128x96:r=10:d=0.6,format=yuv420p10le,{marks}", *codec, video)
    info = probe(video)
    if info.static_hdr is None:
        pytest.skip("this ffmpeg does not read them")
    assert info.static_hdr.display is not None
    assert np.allclose(info.static_hdr.display, (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329, 0.005, 4000))
    out = delivered(video, 6, MASK, read_frames(video))
    said = notes_of(Source.open(video, tmp_path / "mask.png"), look_of(Source.open(video, tmp_path / "mask.png"), 6))
    note = next(line for line in said if "HDR10 metadata" in line)
    # In the bytes of the stream, whose escapes go first: numbers of 16 and 32 bit.
    data = out.read_bytes().replace(b"\0\0\3", b"\0\0")
    places = struct.pack(">8H2I", 8500, 39850, 6550, 2300, 35400, 14600, 15635, 16450, 40000000, 50)
    carried = transfer == "smpte2084"
    assert (places in data) == carried == (b"\x90\x04" + struct.pack(">2H", 1000, 400) in data)
    assert note.endswith("kept" if carried else "left out, because the output is not HDR")


def test_dolby_vision_of_its_own_colours_is_refused(tmp_path: Path) -> None:
    text = """Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'v.mp4':
  Stream #0:0[0x1](und): Video: hevc (Main 10) (dvh1 / 0x31687664), yuv420p10le(pc), 3840x2160, 24 fps, 24 tbr
    Side data:
      DOVI configuration record: version: 1.0, profile: {}, level: 6, rpu flag: 1, el flag: 0, bl flag: 1, {}
"""
    with pytest.raises(VideoError, match=r"Dolby Vision's own \(profile 5\) .* export it as HDR10"):
        parse_header(text.format(5, "compatibility id: 0"), tmp_path / "v.mp4")
    assert parse_header(text.format(8, "compatibility id: 1"), tmp_path / "v.mp4").width == 3840
