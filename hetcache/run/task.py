"""`--task`: a removal is an edit with some options set, unless they were given."""

from __future__ import annotations

from dataclasses import replace

from hetcache.media.read import probe
from hetcache.run.options import Request

REMOVAL_MARGIN = 0.01
"""Part of the video's rows by which a removal grows the mask: outlines are soft, codecs smear them."""


def as_task(request: Request) -> Request:
    """The request with what `--task remove` stands for where nothing else was asked. Raises VideoError for a video that
    cannot be read."""
    if request.task.task == "fill":
        return request
    margin_px = request.input.mask_dilate_px or max(1, round(REMOVAL_MARGIN * probe(request.video).height))
    fill = "propagate" if request.edit.fill == "auto" else request.edit.fill
    return replace(
        request,
        input=replace(request.input, mask_hull=True, mask_dilate_px=margin_px),
        edit=replace(request.edit, fill=fill),
    )
