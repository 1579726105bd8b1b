"""Weights of one revision of a hub's repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import modelscope
from diffsynth.core import ModelConfig


@dataclass
class HubModel(ModelConfig):  # type: ignore[misc]  # DiffSynth has no types
    """DiffSynth's config of a hub model, with `revision` (a commit, tag or branch). Revisions have folders of their own
    below DiffSynth's, so that files of one never stand for another's; None is DiffSynth's own behaviour. ModelScope
    and Hugging Face check what they fetch against the hash and size that the hub states."""

    revision: str | None = None

    def reset_local_model_path(self) -> None:
        super().reset_local_model_path()
        if self.revision is not None:
            folder = f"revision-{self.revision.replace('/', '-')}"
            self.local_model_path: str = str(Path(self.local_model_path) / folder)

    def download(self) -> None:
        if self.revision is None:
            super().download()
            return
        model, revision = str(self.model_id), self.revision
        folder = str(Path(self.local_model_path) / model)
        pattern = self.parse_original_file_pattern()
        if self.parse_download_source() == "huggingface":
            huggingface_hub.snapshot_download(model, revision=revision, local_dir=folder, allow_patterns=pattern)
        else:
            modelscope.snapshot_download(model, revision=revision, local_dir=folder, allow_file_pattern=pattern)
