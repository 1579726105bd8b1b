"""Weights of a pinned revision: asked of the right hub, kept apart from other revisions. No hub is reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffsynth_patches import hub, loader
from diffsynth_patches.hub import HubModel


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    calls = []

    def fetch(name):
        def snapshot_download(model_id, revision, local_dir, **patterns):
            calls.append((name, model_id, revision, *patterns.values()))
            Path(local_dir).mkdir(parents=True, exist_ok=True)
            (Path(local_dir) / "Wan2.1_VAE.pth").write_text(revision)

        return snapshot_download

    monkeypatch.setattr(hub.modelscope, "snapshot_download", fetch("modelscope"))
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", fetch("huggingface"))
    monkeypatch.setenv("DIFFSYNTH_MODEL_BASE_PATH", str(tmp_path))
    monkeypatch.delenv("DIFFSYNTH_DOWNLOAD_SOURCE", raising=False)
    return calls


@pytest.mark.parametrize("source", ["modelscope", "huggingface"])
def test_a_revision_is_asked_of_the_hub_and_has_its_own_folder(fetched, tmp_path, source):
    paths = []
    for revision in ("abc123", "refs/pr/1"):
        model = HubModel(
            model_id="Wan-AI/Wan2.1-VACE-1.3B",
            origin_file_pattern="Wan2.1_VAE.pth",
            revision=revision,
            download_source=source,
        )
        model.download_if_necessary()
        paths.append(Path(model.path))
    assert fetched == [
        (source, "Wan-AI/Wan2.1-VACE-1.3B", "abc123", "Wan2.1_VAE.pth"),
        (source, "Wan-AI/Wan2.1-VACE-1.3B", "refs/pr/1", "Wan2.1_VAE.pth"),
    ]
    assert [path.read_text() for path in paths] == ["abc123", "refs/pr/1"]
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_without_a_revision_diffsynth_decides(fetched, monkeypatch):
    asked = []
    monkeypatch.setattr(loader.ModelConfig, "download", lambda self: asked.append(self.model_id))
    HubModel(model_id="Wan-AI/Wan2.1-VACE-1.3B", origin_file_pattern="x").download_if_necessary()
    assert asked == ["Wan-AI/Wan2.1-VACE-1.3B"]
    assert fetched == []


@pytest.mark.parametrize(("source", "remedy"), [("modelscope", "with --hugg"), ("huggingface", "without --hugg")])
@pytest.mark.parametrize("revision", [None, "abc"])
def test_a_hub_that_cannot_be_reached_is_told_with_what_to_do(monkeypatch, tmp_path, source, remedy, revision):
    def away(*_, **__):
        raise ConnectionError("Max retries exceeded\n with url: " + 900 * "x")

    monkeypatch.setenv("DIFFSYNTH_MODEL_BASE_PATH", str(tmp_path))
    monkeypatch.setattr(loader.ModelConfig, "download", away)
    monkeypatch.setattr(hub.modelscope, "snapshot_download", away)
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", away)
    model = HubModel(model_id="Wan-AI/Some", origin_file_pattern="x.pth", revision=revision, download_source=source)
    with pytest.raises(ValueError) as told:
        model.download_if_necessary()
    text = str(told.value)
    assert text.startswith("Wan-AI/Some: cannot be fetched from") and "\n" not in text and len(text) < 450
    assert f"try {remedy}" in text and "--model a folder" in text and "Max retries exceeded with url" in text


def test_all_files_of_a_published_model_come_from_the_revision():
    configs, tokenizer = loader._configs("wan2.1-vace-1.3b", loader.model_info("wan2.1-vace-1.3b"), True, "abc123")
    assert {config.revision for config in [*configs, tokenizer]} == {"abc123"}
