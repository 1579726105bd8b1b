"""The form at `/`: the stage where a clip is opened and marked, what is to become of it, the plan, and the jobs.

Gradio lays it out; the stage and the list of jobs are `static/stage.js` and `static/jobs.js`, which talk to
`hetcache.app.server`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from hetcache.app.choice import (
    DEFAULT_SPEED,
    DESCRIBE,
    OWN_SPEED,
    REMOVE,
    SPEEDS,
    Choice,
    Setting,
    advanced,
    command_line,
    first_frames,
    request_of,
    window_of,
)
from hetcache.app.planner import Outlook, Planner
from hetcache.app.sessions import Session, Sessions
from hetcache.files import to_json
from hetcache.queue.store import Queue
from hetcache.run.options import Request

HERE = Path(__file__).parent / "static"
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
HEAD = """<link rel="stylesheet" href="/app/static/app.css">
<script defer src="/app/static/stage.js"></script>
<script defer src="/app/static/jobs.js"></script>"""
FASTEST = 12.0
LEGEND = {"full": "all tokens", "partial": "the edit's tokens", "reuse": "reused"}
PATIENCE_S = 0.7
"""A plan that takes longer is announced; the first one loads the model."""
PLANNING = "The plan is being made ..."
MARK_FIRST = "Open a clip, mark the thing and find it in every frame: then the plan is shown here."


def make_page(sessions: Sessions, queue: Queue, planner: Planner) -> gr.Blocks:
    """The form. Its events find the browser's session by its cookie."""
    form = Form(sessions, queue, planner)
    with gr.Blocks(title="HetCache", analytics_enabled=False) as page:
        gr.HTML("<header><h1>HetCache</h1><p>Take something out of a video, or put something else there.</p></header>")
        with gr.Row(elem_id="work"):
            with gr.Column(scale=3, min_width=340):
                gr.HTML((HERE / "stage.html").read_text(encoding="utf-8"), elem_id="stage-holder")
            with gr.Column(scale=2, min_width=320, elem_id="form"):
                form.build()
        gr.HTML((HERE / "jobs.html").read_text(encoding="utf-8"), elem_id="jobs-holder")
        form.connect(page)
    return page


def theme() -> gr.themes.Base:
    """Calm, with the fonts of the machine alone: none is fetched."""
    return gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONO)


class Form:
    """The right side: what, how fast, run, and the settings behind it."""

    def __init__(self, sessions: Sessions, queue: Queue, planner: Planner) -> None:
        self._sessions = sessions
        self._queue = queue
        self._planner = planner
        self._planners = ThreadPoolExecutor(thread_name_prefix="plan")
        self._extras: list[tuple[Setting, Any]] = []

    def build(self) -> None:
        """Make the components, in order."""
        self.what = gr.Radio([REMOVE, DESCRIBE], value=REMOVE, label="What should happen")
        self.prompt = gr.Textbox(
            label="What should be there", placeholder="an empty lawn", visible=False, elem_id="prompt"
        )
        self.whole = gr.Radio(["First part", "Whole clip"], value="First part", label="How much", visible=False)
        self.speed = gr.Radio([*SPEEDS, OWN_SPEED], value=DEFAULT_SPEED, label="How fast")
        self.speedup = gr.Slider(
            1, FASTEST, value=1, step=0.1, label="Speed-up wanted", info="times less work than every step in full"
        )
        self.plan = gr.HTML(_plan_html(MARK_FIRST), elem_id="plan")
        self.run = gr.Button("Run", variant="primary", elem_id="run", interactive=False)
        self.note = gr.HTML("", elem_id="note")
        with gr.Accordion("Advanced settings", open=False):
            for title, settings in advanced():
                with gr.Accordion(title, open=False):
                    for setting in settings:
                        self._extras.append((setting, _component(setting)))
        with gr.Accordion("Show the command line", open=False, elem_id="command-holder"):
            self.command = gr.Code(
                "",
                label="The same from a shell",
                elem_id="command",
                max_lines=8,
                wrap_lines=True,
                interactive=False,
            )
        self.refresh = gr.Button("refresh", elem_id="refresh")

    def connect(self, page: gr.Blocks) -> None:
        """Bind the events."""
        chosen = [self.what, self.prompt, self.speed, self.speedup, self.whole, *(part for _, part in self._extras)]
        shown = [self.plan, self.command, self.run, self.speedup, self.whole]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
        for trigger in (self.refresh.click, page.load):
            trigger(self.look, chosen, shown, **quiet)
        for part in (self.what, self.speed, self.whole):
            part.input(self.look, chosen, shown, **quiet)
        self.prompt.change(self.look, chosen, shown, **quiet)
        for _, part in self._extras:
            (part.input if isinstance(part, (gr.Checkbox, gr.Dropdown)) else part.blur)(
                self.look, chosen, shown, **quiet
            )
        self.what.input(lambda what: gr.update(visible=what == DESCRIBE), self.what, self.prompt, **quiet)
        # In the browser alone: an answer of the server would come after the next choice and undo it.
        self.speedup.input(None, None, self.speed, js=f"() => {to_json(OWN_SPEED, indent=None)}", **quiet)
        self.speedup.input(self.look_at_own_speed, chosen, shown, **quiet)
        added = self.run.click(self.add, chosen, self.note, show_progress="hidden", api_visibility="private")
        added.then(None, None, None, js="() => window.hetcacheJobs && window.hetcacheJobs.look()")

    def look(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The plan, the command line, whether it can be run, the slider at the plan's speed-up, and the lengths; at
        once, and again when the time to expect is measured."""
        session = self._session(request)
        asked_at = session.looked()
        lengths = _lengths(session)
        asked, why = self._asked(session, values)
        off, on = gr.update(interactive=False), gr.update(interactive=True)
        if asked is None:
            yield _plan_html(why, why != MARK_FIRST), "", off, gr.update(), lengths
            return
        line, own = command_line(asked), self._choice(values).speed == OWN_SPEED
        for measure in (False, True):
            planning = self._planners.submit(self._planner.outlook, asked, measure)
            if not measure and wait([planning], PATIENCE_S).not_done and session.is_newest(asked_at):
                yield _plan_html(PLANNING), line, gr.update(), gr.update(), lengths
            try:
                outlook = planning.result()
            except (ValueError, OSError) as error:
                yield _plan_html(_words(error, session), True), line, off, gr.update(), lengths
                return
            if not session.is_newest(asked_at):
                # Something else was chosen meanwhile: what is shown is its plan. An event must answer something.
                yield (gr.skip(),) * 5
                return
            slider = gr.update() if own or outlook.speedup is None else min(round(outlook.speedup, 1), FASTEST)
            yield _outlook_html(outlook), line, on, slider, lengths
            if outlook.is_timed:
                return

    def look_at_own_speed(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The same while the slider moves."""
        changed = list(values)
        changed[2] = OWN_SPEED
        yield from self.look(request, *changed)

    def add(self, request: gr.Request, *values: Any) -> str:
        """Put the job into the queue. Returns what to tell."""
        session = self._session(request)
        asked, why = self._asked(session, values)
        if asked is None:
            return _note_html(why, True)
        assert session.clip is not None
        try:
            job = self._queue.add(asked, session.owner, session.clip.name, link=True)
        except (ValueError, OSError) as error:
            return _note_html(_words(error, session), True)
        return _note_html(f"Job {job.number} is in the queue.")

    def _session(self, request: gr.Request) -> Session:
        return self._sessions.of(request.request.scope["session_secret"])

    def _asked(self, session: Session, values: tuple[Any, ...]) -> tuple[Request | None, str]:
        """(the request, "") or (None, why there is none)."""
        mask, clip = session.mask_file(), session.clip_file()
        if mask is None or clip is None or session.clip is None:
            return None, MARK_FIRST
        try:
            return request_of(self._choice(values), clip, mask, session.clip.num_frames), ""
        except (ValueError, OSError) as error:
            return None, _words(error, session)

    def _choice(self, values: tuple[Any, ...]) -> Choice:
        what, prompt, speed, speedup, whole, *others = values
        extras: dict[str, Any] = {}
        for (setting, _), value in zip(self._extras, others, strict=True):
            if setting.kind is bool:
                if value != setting.default:
                    extras[setting.flag] = bool(value)
            elif value not in (None, "") and value != setting.default and str(value).strip():
                extras[setting.flag] = value if setting.choices else str(value).strip()
        return Choice(what, str(prompt), speed, float(speedup), whole == "Whole clip", extras)


def _component(setting: Setting) -> Any:
    name = setting.flag.removeprefix("--")
    said = {"label": name.replace("-", " "), "info": setting.help, "elem_id": f"set-{name}"}
    if setting.kind is bool:
        return gr.Checkbox(value=bool(setting.default), **said)
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=setting.default, **said)
    return gr.Textbox(placeholder=setting.shown, max_lines=1, **said)


def _lengths(session: Session) -> Any:
    """The two lengths of this clip, where there are two."""
    clip = session.clip
    if clip is None:
        return gr.update(visible=False)
    first = first_frames(clip.num_frames, window_of("auto"))
    choices = [(f"First {first} frames", "First part"), (f"Whole clip, {clip.num_frames} frames", "Whole clip")]
    return gr.update(choices=choices, visible=first != clip.num_frames)


def _words(error: BaseException, session: Session) -> str:
    return str(error).replace(str(session.folder), "…")


def _plan_html(words: str, is_error: bool = False) -> str:
    return f'<p class="{"bad" if is_error else "calm"}" role="status">{escape(words)}</p>'


def _note_html(words: str, is_error: bool = False) -> str:
    return _plan_html(words, is_error)


def _outlook_html(outlook: Outlook) -> str:
    legend = "".join(f'<span><i class="{name}"></i>{words}</span>' for name, words in LEGEND.items())
    timeline = f'{outlook.html}<div class="legend">{legend}</div>' if outlook.html else ""
    return f"{_plan_html(outlook.words)}{timeline}"
