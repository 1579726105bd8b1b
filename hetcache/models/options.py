"""Which model, on what. Every field is a flag."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hetcache.core.settings import check_settings, refused, setting
from hetcache.models import MODELS

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelOptions:
    """The model and where it runs; `auto` is resolved by `hetcache.run.job.choose_device` and `choose_model`."""

    model: str = setting(
        "auto",
        f"auto (1.3B on CUDA, else the embedded model), {', '.join(MODELS)}, a folder with weights, or a hub's "
        "repository in diffusers' layout",
        metavar="MODEL",
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", metavar="DEVICE")
    dtype: Precision = setting("auto", "auto: bfloat16 on CUDA, float32 on a CPU")
    revision: str | None = setting(
        None,
        "commit, tag or branch of the hub's repository to take the weights from",
        shown="the hub's newest",
        metavar="REV",
    )
    huggingface: bool = setting(False, "fetch weights from Hugging Face, not ModelScope")

    def __post_init__(self) -> None:
        check_settings(self)
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", self.device):
            raise refused(self, "device", "use auto, cpu, cuda or cuda:N")
        if self.revision is not None and not re.fullmatch(r"[\w][\w./-]*", self.revision):
            raise refused(self, "revision", "not the name of a commit, tag or branch")
