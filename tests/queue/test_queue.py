"""Jobs on disk: added whole or not at all, moved from state to state, run one after another by one worker."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from long_runs import make_clip

from hetcache.cli import parse, words_of_request
from hetcache.files import UserError
from hetcache.queue import command, store
from hetcache.queue.job import Progress, QueuedJob, Standing
from hetcache.queue.store import MAX_ATTEMPTS, Queue
from hetcache.queue.worker import do, one_line
from hetcache.run.studio import Studio

CHANGED = [
    "--mode hetcache_fast",
    "--mode hetcache_fast --cache-thresh 0.03 --steps 7 --seed 3 --no-apply-mask-to-input",
    "--mode pab --frames all --window 33 --overlap 9 --height 64 --width 96",
    "--mode baseline --outpaint 16,0,16,0 --mask-feather 3 --lossless --save-raw --report",
    "--mode hetcache --focus 40 --cfg-scale 1 --fill propagate --target-speedup 2.5 --fast-rope --vram-limit 8",
]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return folder


def asked(clip: Path, *extra: str) -> Any:
    words = ["--video", str(clip / "v.mp4"), "--mask", str(clip / "m.mp4"), "--model", "tiny", "--frames", "5"]
    return parse([*words, *"--height 48 --width 64 --steps 2".split(), *extra])


@pytest.mark.parametrize("line", CHANGED)
def test_a_request_is_its_words(line: str) -> None:
    request = parse(line.split())
    again = parse(words_of_request(request))
    for item in fields(request):
        if item.name != "words":
            assert getattr(again, item.name) == getattr(request, item.name), item.name


def test_words_that_look_like_flags_stay_values() -> None:
    request = parse(["--prompt=--mode is a word", "--negative-prompt", 'it\'s "here"; rm -rf $HOME'])
    assert parse(words_of_request(request)).edit == request.edit


def test_a_job_is_a_folder_with_its_own_inputs(queue: Queue, clip: Path, tmp_path: Path) -> None:
    for name in ("v.mp4", "m.mp4"):
        shutil.copy2(clip / name, tmp_path / name)
    job = queue.add(asked(tmp_path), owner="me")
    (tmp_path / "v.mp4").write_bytes(b"something else")
    again = queue.job(job.number)
    assert again == job and again.number == 1 and again.owner == "me" and again.title == "v.mp4"
    request = again.request()
    assert request.video.read_bytes() == (clip / "v.mp4").read_bytes()
    assert request.video.is_relative_to(queue.folder) and request.mask is not None
    assert request.output.output == again.folder / "edit.mp4"
    assert (request.edit.num_steps, request.length.frames, request.size.height) == (2, 5, 48)
    assert again.standing == Standing()


def test_the_example_needs_no_copy(queue: Queue) -> None:
    job = queue.add(parse([]))
    assert job.inputs == {} and job.title == "real.mp4" and job.request().video.name == "real.mp4"


def test_a_folder_of_frames_is_an_input(queue: Queue, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "1.png").write_bytes(b"x")
    job = queue.add(parse(["--video", str(frames), "--mask", str(frames)]), link=True)
    assert (job.request().video / "1.png").samefile(frames / "1.png")


@pytest.mark.parametrize(
    "line, message",
    [
        ("--plan", "--plan and --probe answer at once"),
        ("--probe x.mp4", "--plan and --probe answer at once"),
        ("--parallel cfg", "--parallel is for several processes"),
        ("--video nowhere.mp4 --mask nowhere.mp4", "video nowhere.mp4: no such file"),
    ],
)
def test_what_is_no_job_is_refused_and_leaves_nothing(queue: Queue, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        queue.add(parse(line.split()))
    assert list(queue.folder.iterdir()) == []


def test_a_full_disk_adds_no_half_job(queue: Queue, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = queue.add(asked(clip))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.shutil, "copy2", full)
    with pytest.raises(UserError, match="job not added .No space left on device"):
        queue.add(asked(clip))
    assert [path.name for path in queue.folder.iterdir() if path.name != ".lock"] == [kept.folder.name]


def test_jobs_are_taken_in_order_and_end(queue: Queue) -> None:
    first, second = queue.add(parse([])), queue.add(parse([]))
    taken = queue.take()
    assert taken == first and first.standing.state == "running" and first.standing.attempts == 1
    queue.settle(first, "done")
    assert first.standing.state == "done" and first.standing.ended is not None
    assert queue.take() == second and queue.take() is None


def test_cancel_again_and_remove(queue: Queue) -> None:
    job = queue.add(parse([]))
    assert queue.cancel(job.number) == "waiting" and job.standing.state == "cancelled" and queue.take() is None
    with pytest.raises(UserError, match="job 1: is cancelled already"):
        queue.cancel(job.number)
    queue.again(job.number)
    assert queue.take() == job
    assert queue.cancel(job.number) == "running" and job.is_cancelled and job.standing.state == "running"
    with pytest.raises(UserError, match="is running; cancel it first"):
        queue.remove(job.number)
    with pytest.raises(UserError, match="is running; only a failed or cancelled one"):
        queue.again(job.number)
    queue.settle(job, "failed", "no")
    assert not job.is_cancelled
    queue.remove(job.number)
    assert queue.jobs() == [] and not job.folder.exists()
    with pytest.raises(UserError, match="job 1: there is none"):
        queue.job(1)


def test_what_a_killed_worker_left_waits_again_but_not_for_ever(queue: Queue) -> None:
    job, other = queue.add(parse([])), queue.add(parse([]))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert queue.take() == job and job.standing.attempts == attempt
        assert queue.recover() == [job]
    assert job.standing.state == "failed" and "killed 3 times" in job.standing.message
    assert queue.take() == other
    other.ask_to_cancel()
    queue.recover()
    assert other.standing.state == "cancelled"


def test_a_damaged_job_is_not_run_and_the_others_are(queue: Queue) -> None:
    damaged, job = queue.add(parse([])), queue.add(parse([]))
    (damaged.folder / "state.json").write_text("{")
    assert damaged.standing.state == "failed" and "damaged" in damaged.standing.message
    assert queue.take() == job
    (damaged.folder / "job.json").write_text("[]")
    assert [known.number for known in queue.jobs()] == [job.number]
    with pytest.raises(UserError, match="job.json: missing or damaged"):
        QueuedJob.read(damaged.folder)


def test_a_failed_job_says_why_in_one_line_and_the_next_one_runs(queue: Queue, clip: Path) -> None:
    bad, good = queue.add(asked(clip, "--frames", "33")), queue.add(asked(clip))
    studio = Studio()
    for job in (bad, good):
        assert queue.take() == job
        do(queue, job, studio)
    assert bad.standing.state == "failed" and "\n" not in bad.standing.message
    assert "33 frames asked, 17 there" in bad.standing.message and bad.standing.message in bad.log.read_text()
    assert good.standing.state == "done" and good.video.is_file()
    record = json.loads(good.video.with_suffix(".json").read_text())
    assert good.progress.decisions == record["decisions"]["cond"] and good.progress.num_steps == 2
    assert "total" in good.log.read_text()


def test_an_error_nobody_expected_fails_the_job_alone(
    queue: Queue, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hetcache.queue import worker

    job = queue.add(asked(clip))
    monkeypatch.setattr(worker, "go_on", lambda *_: {}["no such key"])
    queue.take()
    do(queue, job, Studio())
    assert job.standing.message == "KeyError: 'no such key' (the log has more)" and "Traceback" in job.log.read_text()
    assert one_line(RuntimeError()) == "RuntimeError: RuntimeError (the log has more)"


def test_a_state_that_cannot_be_written_is_tried_again(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    from hetcache.queue import worker

    job, calls = queue.add(parse([])), []
    queue.take()
    real = store.Queue.settle

    def full_once(self: Queue, *words: Any) -> None:
        calls.append(words)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *words)

    monkeypatch.setattr(store.Queue, "settle", full_once)
    monkeypatch.setattr(worker.time, "sleep", lambda _: None)
    worker.settle(queue, job, "done", "")
    assert job.standing.state == "done" and len(calls) == 2


def test_windows_of_another_version_are_made_again(queue: Queue, clip: Path) -> None:
    job = queue.add(asked(clip, "--frames", "9", "--window", "5", "--overlap", "1"))
    windows = job.folder / "edit_windows"
    windows.mkdir()
    (windows / "window_00000.json").write_text("{}")
    (windows / "window_00000.npz").write_bytes(b"")
    (windows / "run.json").write_text('{"versions": "of long ago", "windows": []}')
    queue.take()
    do(queue, job, Studio())
    assert job.standing.state == "done" and "so the job starts again" in job.log.read_text()


def test_progress_in_words() -> None:
    assert Progress().describe() == "loading the model"
    half = Progress(1, 2, 4, "FP", (1.0, 3.0))
    assert half.left_s == 2.0 * (2 + 4) and half.describe() == "part 1 of 2, step 2 of 4 (FP), about 12 s left"
    assert replace(half, num_edits=1, step_s=()).describe() == "step 2 of 4 (FP)"


def test_the_command(queue: Queue, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        code = command.main(["--queue", str(queue.folder), *words])
        return (code, *capsys.readouterr())

    assert "no jobs in" in call("list")[1]
    code, out, _ = call("add", "--video", str(clip / "v.mp4"), "--mask", str(clip / "m.mp4"), "--steps", "3")
    assert code == 0 and "job 1 waits" in out and "no worker is at it" in out
    assert "1  waiting" in call("list")[1] and "--steps 3" in call("list")[1]
    assert call("log", "1")[1] == "job 1: not begun\n"
    assert call("cancel", "1")[1] == "job 1: cancelled\n"
    assert call("again", "1")[1] == "job 1 waits\n"
    assert call("remove", "1")[1] == "job 1: removed\n"
    code, _, error = call("cancel", "1")
    assert code == 2 and error.startswith("hetcache-queue: error: job 1: there is none") and error.count("\n") == 1
    code, _, error = call("add", "--video", "nowhere.mp4", "--mask", "m.mp4")
    assert code == 2 and "video nowhere.mp4: no such file" in error
    with pytest.raises(SystemExit):
        call("add", "--frmaes", "3")


def test_listing_needs_no_torch(queue: Queue) -> None:
    import subprocess
    import sys

    queue.add(parse([]))
    code = (
        "import sys; from hetcache.queue.command import main; "
        f"main(['--queue', {str(queue.folder)!r}, 'list']); assert not {{'torch', 'diffsynth'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], capture_output=True)
