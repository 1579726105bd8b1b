"""Takes the WebP photographs out of Qt resource files (.rcc), which store them as they are.

python -m scripts.train.carve RCC_FILES --to FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

SMALLEST_BYTES = 25_000  # smaller ones are buttons
HEAD = 12  # "RIFF", the length of what follows these eight bytes, "WEBP"


def webp_images(content: bytes, smallest: int = SMALLEST_BYTES) -> Iterator[bytes]:
    """The WebP files that lie whole in the content, in order."""
    start = content.find(b"RIFF")
    while start >= 0:
        size = int.from_bytes(content[start + 4 : start + 8], "little") + 8
        is_webp = content[start + 8 : start + HEAD] == b"WEBP" and start + size <= len(content)
        if is_webp and size >= smallest:
            yield content[start : start + size]
        start = content.find(b"RIFF", start + (size if is_webp else 4))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    for path in options.files:
        for index, image in enumerate(webp_images(path.read_bytes())):
            (options.to / f"{path.stem}_{index}.webp").write_bytes(image)


if __name__ == "__main__":
    main()
