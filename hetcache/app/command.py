"""The command `hetcache-app`: serve the page."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from hetcache.app.options import LOOPBACK, AppOptions
from hetcache.cli import OneLineParser, add_settings, take
from hetcache.core.terminal import complain, say, take_any_character
from hetcache.files import UserError
from hetcache.queue.store import Queue

PROGRAM = "hetcache-app"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after Ctrl-C, 2 for what cannot be served."""
    take_any_character()
    parser = OneLineParser(
        PROGRAM,
        description="A page to work in: open a clip, mark the thing, see the plan, run, compare.",
        allow_abbrev=False,
    )
    add_settings(parser, AppOptions)
    given = vars(parser.parse_args(argv))
    try:
        serve(take(AppOptions, given))
    except (ValueError, OSError) as error:
        complain(f"{PROGRAM}: error: {error}")
        return 2
    return 0


def serve(options: AppOptions) -> None:
    """Serve until Ctrl-C. Raises UserError for a port that is taken and when the page's libraries are not there."""
    try:
        import uvicorn

        app = make_app(options)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -r requirements-app.txt") from error
    from hetcache.app.supervise import Supervisor

    listener = listen(options)
    port = listener.getsockname()[1]
    queue = Queue(options.queue_folder)
    supervisor = Supervisor(queue) if options.worker else None
    if supervisor is not None:
        supervisor.start()
    name = f"[{options.host}]" if ":" in options.host else options.host
    say(f"HetCache is at http://{name}:{port}/ (Ctrl-C ends the page; jobs go on)")
    try:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, ws="none"))
        server.run(sockets=[listener])
    finally:
        if supervisor is not None:
            supervisor.stop()


def make_app(options: AppOptions) -> Any:
    """The whole server as an ASGI application."""
    # Read when Gradio is imported: nothing is reported to anybody.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Bars of the little that is computed here say nothing to whoever started the page.
    os.environ.setdefault("TQDM_DISABLE", "1")
    import gradio as gr

    from hetcache.app.guard import Guard
    from hetcache.app.page import HEAD, make_page, theme
    from hetcache.app.planner import Planner
    from hetcache.app.server import make_server
    from hetcache.app.sessions import Sessions

    queue, sessions = Queue(options.queue_folder), Sessions(options)
    server = make_server(options, sessions, queue)
    page = make_page(sessions, queue, Planner(queue))
    gr.mount_gradio_app(
        server,
        page,
        "/",
        server_name=options.host,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        head=HEAD,
    )
    return Guard(server, options)


def listen(options: AppOptions) -> socket.socket:
    """The socket to serve on. Raises UserError."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    host = "127.0.0.1" if options.host == LOOPBACK[1] else options.host
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, options.port))
        # From here on a browser that comes early waits.
        listener.listen()
    except OSError as error:
        listener.close()
        cause = error.strerror or error
        raise UserError(f"--host {options.host} --port {options.port}: {cause}; give another --port") from error
    return listener
