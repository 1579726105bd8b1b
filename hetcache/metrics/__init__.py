"""Quality metrics of videos. Importing this package loads numpy only: the rest is loaded where it is used."""

from hetcache.metrics.frame import psnr, ssim, ssim_map
from hetcache.metrics.regions import REGION_NAMES, regions

__all__ = ["REGION_NAMES", "psnr", "regions", "ssim", "ssim_map"]
