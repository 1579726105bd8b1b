"""The SAM 2 engine: Segment Anything 2 (arXiv 2408.00714) as the library `transformers` has it, with its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hetcache.files import UserError
from hetcache.masking.frames import FrameStore
from hetcache.masking.marks import drawn
from hetcache.masking.prompts import Box, Mark, Point, Prompts
from hetcache.masking.track import Found, Plane, Tick

WEIGHTS = "facebook/sam2.1-hiera-tiny"
GET_WEIGHTS = f"`hf download {WEIGHTS} --local-dir sam2` gets weights, then give --sam2 sam2"
_THING = 1
"""The only object's number in SAM 2's session."""


class Sam2Engine:
    """`Engine` says what the methods do. Marked frames condition all others: first those after the first marked one in
    their order, then those before it backwards. One box a frame; what is drawn is given as a mask."""

    name = "sam2"

    def __init__(self, model: Any, processor: Any, weights: str, device: str) -> None:
        self.model, self.processor, self.weights, self.device = model, processor, weights, device

    @classmethod
    def load(cls, weights: str | None, device: str = "auto") -> Sam2Engine:
        """From a folder or by the name of a model of the hub. Raises UserError, with the command that gets weights,
        where there are none, and for a device that is not there."""
        if weights is None:
            raise UserError(f"--engine sam2 has no weights of its own: {GET_WEIGHTS}")
        where = _device(device)
        try:
            from transformers import Sam2VideoModel, Sam2VideoProcessor
        except ImportError as error:
            raise UserError(f"--engine sam2: this transformers has no SAM 2 ({error}); install a newer one") from error
        if Path(weights).is_dir() and not (Path(weights) / "config.json").is_file():
            raise UserError(f"--sam2 {weights}: holds no config.json; {GET_WEIGHTS}")
        try:
            model, loaded = Sam2VideoModel.from_pretrained(weights, output_loading_info=True)
            processor = Sam2VideoProcessor.from_pretrained(weights)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"--sam2 {weights}: cannot be loaded ({cause[:160]}); {GET_WEIGHTS}") from error
        if loaded["missing_keys"]:
            # The library would go on with random numbers in their place.
            missing = len(loaded["missing_keys"])
            raise UserError(f"--sam2 {weights}: lacks {missing} of SAM 2's weights for videos; {GET_WEIGHTS}")
        return cls(model.to(where).eval(), processor, weights, where)

    def facts(self) -> dict[str, Any]:
        import transformers

        return {
            "name": self.name,
            "weights": self.weights,
            "device": self.device,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def work(self, num_frames: int, prompts: Prompts) -> int:
        return num_frames

    def track(self, frames: FrameStore, prompts: Prompts, tick: Tick) -> Iterator[Found]:
        session = self.processor.init_video_session(
            inference_device=self.device, inference_state_device=self.device, dtype=torch.float32
        )
        session.video_height, session.video_width = frames.size
        session.processed_frames = _Prepared(frames, self.processor, self.device)
        for key in prompts.frames:
            self._mark(session, key, prompts.at(key), frames.size)
            self.model(session, frame_idx=key)
        first = prompts.frames[0]
        for index in [*range(first, len(frames)), *range(first - 1, -1, -1)]:
            if index == first - 1:
                # Backwards: what was found on the way forwards is no memory of what came before.
                session.output_dict_per_obj[0]["non_cond_frame_outputs"].clear()
            output = self.model(session, frame_idx=index, reverse=index < first)
            yield self._found(output, index, frames.size)
            self._forget(session, index)
            tick("backwards" if index < first else "forwards")

    def _mark(self, session: Any, key: int, marks: tuple[Mark, ...], size: tuple[int, int]) -> None:
        """Give one frame's marks to SAM 2. Raises UserError for a mixture that it does not take."""
        boxes = [mark for mark in marks if isinstance(mark, Box)]
        points = [mark for mark in marks if isinstance(mark, Point)]
        given: dict[str, Any] = {}
        mask = drawn(marks, size)
        if mask is not None:
            given["input_masks"] = mask
        elif len(boxes) > 1:
            raise UserError(f"frame {key}: SAM 2 takes one box a frame; give one around all, or --engine flow")
        elif len(boxes) + len(points) < len(marks):
            raise UserError(
                f"frame {key}: SAM 2 takes either what is drawn or boxes and points; put them on two frames, or give "
                "--engine flow"
            )
        if boxes:
            given["input_boxes"] = [[[boxes[0].x0, boxes[0].y0, boxes[0].x1, boxes[0].y1]]]
        if points:
            given["input_points"] = [[[[point.x, point.y] for point in points]]]
            given["input_labels"] = [[[int(point.positive) for point in points]]]
        self.processor.add_inputs_to_inference_session(session, frame_idx=key, obj_ids=_THING, **given)

    def _found(self, output: Any, index: int, size: tuple[int, int]) -> Found:
        logits = output.pred_masks.float().reshape(output.pred_masks.shape[-2:]).cpu().numpy()
        there = float(torch.sigmoid(output.object_score_logits.float().reshape(-1)[0]))
        logits_HW = np.asarray(cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        opacity = (1 / (1 + np.exp(-logits_HW.clip(-30, 30)))).astype(np.float32)
        return Found(index, opacity, _stability(logits_HW) * there if (opacity >= 0.5).any() else 1 - there)

    def _forget(self, session: Any, index: int) -> None:
        """What no later frame is going to look at: a clip of any length fits into memory."""
        config = self.model.config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        outputs = session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        for old in [known for known in outputs if abs(known - index) >= reach]:
            del outputs[old]


class _Prepared:
    """The frames as SAM 2 takes them, made when they are asked for; stands in the place of its session's own dict."""

    def __init__(self, frames: FrameStore, processor: Any, device: str) -> None:
        self.frames, self.processor, self.device = frames, processor, device

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Any:
        frame: NDArray[np.uint8] = np.array(self.frames[index])
        prepared = self.processor.video_processor(videos=frame[None], device=self.device, return_tensors="pt")
        return prepared.pixel_values_videos[0][0]


def _stability(logits_HW: Plane) -> float:
    """How little the mask changes when its threshold does: SAM's measure, 1 for a mask with sharp borders."""
    sure, possible = (logits_HW > 1).sum(), (logits_HW > -1).sum()
    return float(sure / possible) if possible else 0.0


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device {asked}: use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {asked}: this machine has no GPU that torch can use; leave it out")
    return asked
