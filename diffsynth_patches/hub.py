"""Weights of one revision of a hub's repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import modelscope
from diffsynth.core import ModelConfig

from hetcache.files import UserError

MOST_SAID = 200
"""Characters of a client's message; some hold whole addresses and call stacks."""


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
        """Raises UserError for whatever a hub's client says of a repository that it cannot fetch."""
        try:
            self._fetch()
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            is_face = self.parse_download_source() == "huggingface"
            asked, other = ("Hugging Face", "without") if is_face else ("ModelScope", "with")
            raise UserError(
                f"{self.model_id}: cannot be fetched from {asked}: check the network, try {other} --huggingface, or "
                f"give --model a folder that holds its files ({said[:MOST_SAID]})"
            ) from error

    def _fetch(self) -> None:
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
