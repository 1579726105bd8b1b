"""Quality metrics of videos: a file and a record for each, all of them in `hetcache.metrics.registry`.

Importing this package loads numpy only: the rest is loaded where it is used.
"""

from hetcache.metrics.psnr import psnr
from hetcache.metrics.regions import REGION_NAMES, regions
from hetcache.metrics.ssim import ssim

__all__ = ["REGION_NAMES", "psnr", "regions", "ssim"]
