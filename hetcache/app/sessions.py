"""What one browser works on: its clip, its marks, its mask. Kept on disk, so that a restart loses nothing."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hetcache.app.clips import OpenClip, check_clip, safe_name, without_paths, write_frames
from hetcache.app.marks import Marks, overlay_png, preview
from hetcache.app.options import AppOptions
from hetcache.files import DATA, UserError, digest, to_json, write_text
from hetcache.masking.make import make_mask
from hetcache.masking.saving import save_mask
from hetcache.masking.track import CancelledError

EXAMPLE = DATA / "real.mp4"
WORK = threading.Semaphore(1)
"""One mask at a time: they share the processor with the worker."""


@dataclass(frozen=True)
class MaskState:
    """`version` counts the masks of a session, `marks` are those it was made of, `weak` the frames that deserve a
    look."""

    version: int = 0
    state: Literal["none", "working", "ready", "failed"] = "none"
    done: int = 0
    total: int = 0
    message: str = ""
    weak: tuple[int, ...] = ()
    marks: tuple[dict[str, Any], ...] = ()


class Session:
    """One browser's clip, marks and mask, in a folder of its own. All methods may be called from any thread."""

    def __init__(self, owner: str, folder: Path, options: AppOptions) -> None:
        self.owner = owner
        self.folder = folder
        self._options = options
        self._lock = threading.RLock()
        self._cancel = threading.Event()
        self.clip: OpenClip | None = None
        self.marks = Marks(())
        self.mask = MaskState()
        self._looks = 0
        self._load()

    def state(self) -> dict[str, Any]:
        """For the page, as JSON values."""
        with self._lock:
            mask = asdict(self.mask)
            made_of = list(mask.pop("marks"))
            return {
                "clip": None if self.clip is None else asdict(self.clip),
                "marks": list(self.marks.values),
                "mask": {**mask, "stale": self.mask.state == "ready" and made_of != list(self.marks.values)},
                "limits": {"mib": self._options.max_mib, "seconds": self._options.max_seconds},
            }

    def looked(self) -> int:
        """Counts the looks at a plan; returns this one's number, for `is_newest`."""
        with self._lock:
            self._looks += 1
            return self._looks

    def is_newest(self, look: int) -> bool:
        return self._looks == look

    def new_file(self, name: str) -> Path:
        """Where the bytes of a clip that is being opened go."""
        folder = self.folder / "new" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder / safe_name(name)

    def open(self, path: Path, name: str) -> None:
        """Take the clip at `path`, a file of `new_file` or the example. Raises UserError, which names no place on the
        server."""
        with self._lock:
            version = 1 + max((int(old.name) for old in self._clips() if old.name.isdigit()), default=0)
            home = self.folder / "clips" / f"{version:05d}"
        try:
            info = check_clip(path, self._options)
            count, shown = write_frames(info, home / "frames", self._options)
            kept = home / safe_name(name)
            _move_or_copy(path, kept)
        except (ValueError, OSError) as error:
            shutil.rmtree(home, ignore_errors=True)
            raise UserError(without_paths(error, path, safe_name(name))) from error
        finally:
            if path.is_relative_to(self.folder):
                shutil.rmtree(path.parent, ignore_errors=True)
        file = str(kept.relative_to(self.folder))
        clip = OpenClip(version, safe_name(name), file, info.width, info.height, count, info.fps, shown)
        with self._lock:
            self._cancel.set()
            self.clip, self.marks, self.mask = clip, Marks(()), MaskState(self.mask.version)
            self._save()
        for old in self._clips():
            if old != home:
                shutil.rmtree(old, ignore_errors=True)

    def frame_file(self, index: int) -> Path:
        """The JPEG of a frame. Raises UserError for one that the clip does not have."""
        return self._need_frame(index) / "frames" / f"{index:05d}.jpg"

    def mask_png(self, index: int) -> bytes | None:
        """The mask over a frame, as far as it is known: what its newer marks say at once, else the finished mask; None
        where nothing is known."""
        home = self._need_frame(index)
        with self._lock:
            assert self.clip is not None
            clip, marks, mask = self.clip, self.marks, self.mask
        known = home / f"mask-{mask.version:05d}" / f"{index:05d}.png"
        finished = known.read_bytes() if mask.state == "ready" and known.exists() else None
        newer = marks.at(index) != Marks(tuple(mask.marks)).at(index) or mask.state != "ready"
        if newer and marks.at(index):
            size = clip.height, clip.width
            return preview(self.frame_file(index), marks.at(index), size, home, finished)
        return finished

    def mark(self, values: Sequence[dict[str, Any]]) -> None:
        """Replace all marks. Raises UserError for what is none, or does not fit the clip."""
        with self._lock:
            clip, home = self._need_clip()
            marks = Marks.read(values)
            marks.check((clip.height, clip.width), clip.num_frames, home)
            self.marks = marks
            self._save()

    def paint(self, index: int, png: bytes) -> None:
        """Take a painted mask for a frame in place of its other marks. Raises UserError for bytes that are no PNG."""
        home = self._need_frame(index)
        with self._lock:
            clip, _ = self._need_clip()
            name = Marks.keep_painted(png, (clip.height, clip.width), home)
            others = [mark for mark in self.marks.values if mark["frame"] != index]
            self.marks = Marks.read([*others, {"kind": "painted", "frame": index, "file": name}])
            self._save()

    def propagate(self) -> None:
        """Begin to find the marked thing in every frame; `mask` says how far it is. Raises UserError when nothing is
        marked or it is being done already."""
        with self._lock:
            clip, home = self._need_clip()
            if self.mask.state == "working":
                raise UserError("the mask is being made already")
            self.marks.of(home).checked((clip.height, clip.width), clip.num_frames)
            before, version = self.mask, self.mask.version + 1
            self.mask = MaskState(version, "working", 0, 0, "waiting for its turn", (), self.marks.values)
            self._cancel = threading.Event()
            thread = threading.Thread(
                target=self._make, args=(clip, home, before, self.marks, self._cancel), daemon=True
            )
        thread.start()

    def cancel_propagation(self) -> None:
        self._cancel.set()

    def mask_file(self) -> Path | None:
        """The finished mask's video."""
        with self._lock:
            if self.clip is None or self.mask.state != "ready":
                return None
            return self._home() / f"mask-{self.mask.version:05d}" / "mask.mp4"

    def clip_file(self) -> Path | None:
        with self._lock:
            return None if self.clip is None else self.folder / self.clip.file

    def _make(self, clip: OpenClip, home: Path, before: MaskState, marks: Marks, cancel: threading.Event) -> None:
        """Make the mask; one that is cancelled leaves what there was `before`."""
        version = before.version + 1
        folder = home / f"mask-{version:05d}"
        try:
            with WORK:
                prompts = marks.of(home)
                path = self.folder / clip.file
                track = make_mask(
                    path,
                    prompts,
                    progress=lambda done, total, what: self._progress(version, done, total, what),
                    cancelled=cancel.is_set,
                )
                folder.mkdir(parents=True, exist_ok=True)
                save_mask(track, path, prompts, folder / "mask.mp4")
                for index in range(len(track)):
                    (folder / f"{index:05d}.png").write_bytes(overlay_png(track[index], clip.shown))
            state = MaskState(version, "ready", 1, 1, "", tuple(track.weak), marks.values)
        except CancelledError:
            state = before
        except (ValueError, OSError, MemoryError) as error:
            state = MaskState(version, "failed", message=without_paths(error, self.folder, "the session"))
        except Exception as error:
            state = MaskState(version, "failed", message=f"{type(error).__name__}: {error}")
        with self._lock:
            if self.mask.version == version and self.clip == clip:
                self.mask = state
                with suppress(OSError):
                    self._save()

    def _progress(self, version: int, done: int, total: int, what: str) -> None:
        with self._lock:
            if self.mask.version == version and self.mask.state == "working":
                self.mask = replace(self.mask, done=done, total=total, message=what)

    def _need_clip(self) -> tuple[OpenClip, Path]:
        if self.clip is None:
            raise UserError("no clip is open: open one first")
        return self.clip, self._home()

    def _need_frame(self, index: int) -> Path:
        with self._lock:
            clip, home = self._need_clip()
            if not 0 <= index < clip.num_frames:
                raise UserError(f"frame {index}: the clip has {clip.num_frames} frames")
            return home

    def _home(self) -> Path:
        assert self.clip is not None
        return self.folder / "clips" / f"{self.clip.version:05d}"

    def _clips(self) -> Iterable[Path]:
        folder = self.folder / "clips"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        mask = self.mask if self.mask.state == "ready" else MaskState(self.mask.version)
        clip = None if self.clip is None else asdict(self.clip)
        values = {"clip": clip, "marks": list(self.marks.values), "mask": asdict(mask)}
        write_text(self.folder / "session.json", to_json(values))

    def _load(self) -> None:
        try:
            values = json.loads((self.folder / "session.json").read_text(encoding="utf-8"))
            clip, mask = values["clip"], values["mask"]
            self.marks = Marks.read(values["marks"])
            self.clip = None if clip is None else OpenClip(**{**clip, "shown": tuple(clip["shown"])})
            self.mask = MaskState(**{**mask, "weak": tuple(mask["weak"]), "marks": tuple(mask["marks"])})
        except (OSError, ValueError, KeyError, TypeError):
            # Nothing there, or of another version: the browser opens its clip again.
            self.clip, self.marks, self.mask = None, Marks(()), MaskState()


class Sessions:
    """All sessions of a server, by the secret that the browser keeps in its cookie."""

    def __init__(self, options: AppOptions) -> None:
        self.folder = options.clips_folder.absolute()
        self._options = options
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--folder {self.folder}: cannot be made ({error.strerror or error})") from error
        self._sweep()

    def of(self, secret: str) -> Session:
        """The session of a browser. Its folder's name does not tell the secret."""
        owner = digest("hetcache session ", secret)[:32]
        with self._lock:
            if owner not in self._open:
                self._open[owner] = Session(owner, self.folder / owner, self._options)
            return self._open[owner]

    def _sweep(self) -> None:
        """Remove what nobody has worked on for long, and uploads that a killed server left."""
        oldest = time.time() - self._options.keep_days * 86400
        for folder in self.folder.iterdir():
            known = folder / "session.json"
            with suppress(OSError):
                if (known if known.exists() else folder).stat().st_mtime < oldest:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    shutil.rmtree(folder / "new", ignore_errors=True)


def _move_or_copy(path: Path, target: Path) -> None:
    """An upload moves; the example stays where it is."""
    if path == EXAMPLE:
        shutil.copy2(path, target)
    else:
        path.replace(target)
