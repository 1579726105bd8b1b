"""The page's server: its own doors for clips, marks, masks and jobs, and the form at `/`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from hetcache.app.clips import too_large
from hetcache.app.options import AppOptions
from hetcache.app.sessions import EXAMPLE, Session, Sessions
from hetcache.files import UserError
from hetcache.queue.job import QueuedJob
from hetcache.queue.store import Queue

STATIC = Path(__file__).parent / "static"
MAX_JSON_BYTES, MAX_PNG_BYTES = 1 << 20, 32 << 20
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
JOB_FILES = {
    "edit.mp4": "video/mp4",
    "edit.json": "application/json",
    "edit.html": "text/html",
    "log.txt": "text/plain; charset=utf-8",
}
PAGE_POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; " + (
    "img-src data: blob:; media-src data: blob:; frame-ancestors 'self'"
)
"""A job's page brings all it needs, and reaches nothing of the page around it."""


def make_server(options: AppOptions, sessions: Sessions, queue: Queue) -> FastAPI:
    """The server without the form, which `hetcache.app.page` mounts, and without its `Guard`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def mine(request: Request) -> Session:
        return sessions.of(request.scope["session_secret"])

    def own_job(request: Request, number: int) -> QueuedJob:
        """Raises UserError, the same for a job of somebody else as for none."""
        job = next((job for job in queue.jobs() if job.number == number), None)
        if job is None or job.owner != mine(request).owner:
            raise UserError(f"job {number}: there is none")
        return job

    @app.exception_handler(UserError)
    @app.exception_handler(OSError)
    def refused(request: Request, error: Exception) -> JSONResponse:
        words = str(error) if isinstance(error, UserError) else getattr(error, "strerror", None) or str(error)
        return JSONResponse({"error": words}, status_code=422 if isinstance(error, UserError) else 507)

    @app.get("/app/static/{name}")
    def static(name: str) -> Response:
        path = STATIC / name
        if path.parent != STATIC or path.suffix not in KINDS or not path.is_file():
            return Response(status_code=404)
        return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/app/state")
    def state(request: Request) -> dict[str, Any]:
        return mine(request).state()

    @app.post("/app/clip")
    async def clip(request: Request, name: str = "clip") -> Any:
        session = mine(request)
        path = session.new_file(name)
        try:
            await take_upload(request, path, options)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        await run_in_threadpool(session.open, path, name)
        return session.state()

    @app.post("/app/example")
    def example(request: Request) -> dict[str, Any]:
        session = mine(request)
        session.open(EXAMPLE, EXAMPLE.name)
        return session.state()

    @app.get("/app/frame/{version}/{index}.jpg")
    def frame(request: Request, version: int, index: int) -> Response:
        path = mine(request).frame_file(index)
        return FileResponse(path, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/app/mask/{index}.png")
    def mask(request: Request, index: int) -> Response:
        png = mine(request).mask_png(index)
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(status_code=204) if png is None else Response(png, media_type="image/png", headers=headers)

    @app.post("/app/marks")
    async def marks(request: Request) -> Any:
        session = mine(request)
        body = await take_body(request, MAX_JSON_BYTES)
        try:
            values = json.loads(body)
        except ValueError as error:
            raise UserError("marks: not JSON") from error
        await run_in_threadpool(session.mark, values)
        return session.state()

    @app.post("/app/painted/{index}")
    async def painted(request: Request, index: int) -> Any:
        session = mine(request)
        png = await take_body(request, MAX_PNG_BYTES)
        await run_in_threadpool(session.paint, index, png)
        return session.state()

    @app.post("/app/propagate")
    def propagate(request: Request) -> dict[str, Any]:
        session = mine(request)
        session.propagate()
        return session.state()

    @app.post("/app/propagate/cancel")
    def cancel_propagation(request: Request) -> dict[str, Any]:
        session = mine(request)
        session.cancel_propagation()
        return session.state()

    @app.get("/app/jobs")
    def jobs(request: Request) -> list[dict[str, Any]]:
        owner = mine(request).owner
        everyone = queue.jobs()
        waiting = [job.number for job in everyone if job.standing.state in ("waiting", "running")]
        return [job_values(job, waiting) for job in reversed(everyone) if job.owner == owner]

    actions: dict[str, Callable[[int], Any]] = {"cancel": queue.cancel, "again": queue.again, "remove": queue.remove}

    @app.post("/app/jobs/{number}/{action}")
    def act(request: Request, number: int, action: str) -> Any:
        if action not in actions:
            return Response(status_code=404)
        actions[action](own_job(request, number).number)
        return jobs(request)

    @app.get("/app/jobs/{number}/{name}")
    def job_file(request: Request, number: int, name: str, download: bool = False) -> Response:
        job = own_job(request, number)
        path = job.folder / name
        if name not in JOB_FILES or not path.is_file():
            return Response(status_code=404)
        title = f"{Path(job.title).stem}_edit{path.suffix}" if download else None
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "private, no-cache"}
        return FileResponse(path, media_type=JOB_FILES[name], filename=title, headers=headers)

    return app


async def take_upload(request: Request, path: Path, options: AppOptions) -> None:
    """Write the body to `path`. Raises UserError as soon as it is too large."""
    promised = request.headers.get("content-length", "")
    why = too_large(int(promised) if promised.isdecimal() else None, options)
    if why is not None:
        raise UserError(why)
    size = 0
    with path.open("wb") as file:
        async for piece in request.stream():
            size += len(piece)
            why = too_large(size, options)
            if why is not None:
                raise UserError(why)
            file.write(piece)


async def take_body(request: Request, limit: int) -> bytes:
    """Raises UserError for a body of more than `limit` bytes."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise UserError(f"more than {limit >> 20} MiB sent")
        pieces.append(piece)
    return b"".join(pieces)


def job_values(job: QueuedJob, unfinished: list[int]) -> dict[str, Any]:
    """A job for the page, as JSON values."""
    standing, progress = job.standing, job.progress
    share = 0.0
    if standing.state == "running" and progress.num_steps:
        done = progress.edit - 1 + len(progress.decisions) / progress.num_steps
        share = min(1.0, done / max(progress.num_edits, 1))
    text = standing.message
    if standing.state == "running":
        text = "ends after this step" if job.is_cancelled else progress.describe()
    elif standing.state == "waiting":
        before = sum(number < job.number for number in unfinished)
        text = f"{before} before it" if before else "next"
    ended = standing.started is not None and standing.ended is not None
    return {
        "number": job.number,
        "title": job.title,
        "state": standing.state,
        "text": text,
        "share": share,
        "decisions": progress.decisions if standing.state == "running" else "",
        "steps": progress.num_steps,
        "took_s": standing.ended - standing.started if ended else None,  # type: ignore[operator]
        "files": [name for name in JOB_FILES if (job.folder / name).is_file()],
    }
