"""Every metric, one line each, and what is done with several of them at once.

The order is that of the reports' columns. To add a metric, write its file with its record and add its line here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from hetcache.metrics.errors import MetricError, optional_import
from hetcache.metrics.joins import COLOUR_DRIFT, DETAIL_KEPT, SEAM_RATIO
from hetcache.metrics.lpips import LPIPS
from hetcache.metrics.metric import Choices, Figures, Frames, Loaded, Metric, PairMetric, Regions
from hetcache.metrics.psnr import IDENTICAL_FRAMES, PSNR
from hetcache.metrics.ssim import SSIM
from hetcache.metrics.temporal import FLICKER, WARP_ERROR
from hetcache.metrics.vfid import FVD, VFID
from hetcache.metrics.vmaf import VMAF

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(PSNR, IDENTICAL_FRAMES, SSIM, LPIPS, VMAF),
        *(WARP_ERROR, FLICKER, SEAM_RATIO, COLOUR_DRIFT, DETAIL_KEPT),
        *(VFID, FVD),
    )
}

Ready = dict[str, Loaded | None]
"""{family that can be measured: its network, None if it needs none}"""
ReadyView = Mapping[str, Loaded | None]
M = TypeVar("M", bound=Metric)


def families(by_default: bool = False) -> list[str]:
    """What `--metrics` can ask for, or what it asks for if nobody does."""
    return list(dict.fromkeys(metric.asked for metric in METRICS.values() if metric.by_default or not by_default))


def chosen(kind: type[M], asked: Collection[str] | None = None) -> list[M]:
    """The metrics of one kind, all or those of the families in `asked`."""
    return [
        metric for metric in METRICS.values() if isinstance(metric, kind) and (asked is None or metric.asked in asked)
    ]


def passes(metrics: Iterable[M]) -> list[M]:
    """One metric of each family: its meter gives the figures of all."""
    return list({metric.asked: metric for metric in metrics}.values())


def load(asked: Collection[str], choices: Choices) -> tuple[Ready, dict[str, str]]:
    """(what can be measured, {family: why it cannot be, with the command that helps}) of the families in `asked`."""
    ready: Ready = {}
    missing: dict[str, str] = {}
    for metric in passes(chosen(Metric, asked)):
        try:
            for module, package in metric.needs.items():
                optional_import(module, package, metric.asked)
            ready[metric.asked] = None if metric.load is None else metric.load(choices)
        except MetricError as error:
            missing[metric.asked] = str(error)
    return ready, missing


class PairMeters:
    """The meters of the pair metrics that are ready, fed together."""

    def __init__(self, ready: ReadyView) -> None:
        self._meters = []
        for metric in passes(chosen(PairMetric, ready)):
            loaded = ready[metric.asked]
            self._meters.append(metric.meter(None if loaded is None else loaded.model))

    def update(self, pred_THWC: Frames, other_THWC: Frames, regions: Regions) -> None:
        """Add frame pairs [T, H, W, 3] and the mask [T, H, W] of each region."""
        for meter in self._meters:
            meter.update(pred_THWC, other_THWC, regions)

    def result(self) -> Figures:
        """{"all" or region: {figure: value}} of all frames so far."""
        found: Figures = {}
        for meter in self._meters:
            for region, figures in meter.result().items():
                found.setdefault(region, {}).update(figures)
        return found


def measure(pred_THWC: Frames, other_THWC: Frames, regions: Regions, ready: ReadyView) -> Figures:
    """Figures of two videos [T, H, W, 3] that are in memory, whole ("all") and in each region's mask [T, H, W]."""
    meters = PairMeters(ready)
    meters.update(pred_THWC, other_THWC, regions)
    return meters.result()
