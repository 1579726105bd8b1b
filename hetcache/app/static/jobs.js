// The jobs of this browser: how far they are, their results.
"use strict";
(() => {
  const NAMES = { waiting: "waits", running: "runs", done: "done", failed: "failed", cancelled: "cancelled" };
  const KINDS = { F: "full", P: "partial", B: "blocks", R: "reuse" };
  const ACTIONS = { waiting: [["cancel", "Cancel"]], running: [["cancel", "Cancel"]], done: [["remove", "Remove"]], failed: [["again", "Try again"], ["remove", "Remove"]], cancelled: [["again", "Run again"], ["remove", "Remove"]] };
  let root = null, timer = null, shown = null, known = "", finished = new Set(), first = true;

  const make = (kind, words, name) => {
    const element = document.createElement(kind);
    if (words !== undefined) element.textContent = words;
    if (name) element.className = name;
    return element;
  };
  async function look() {
    clearTimeout(timer);
    let jobs = null;
    try {
      const answer = await fetch("/app/jobs");
      if (answer.ok) jobs = await answer.json();
    } catch { /* the server is away: ask again */ }
    if (jobs) list(jobs);
    const busy = !jobs || jobs.some((job) => job.state === "running" || job.state === "waiting");
    timer = setTimeout(look, busy ? 500 : 3000);
  }
  async function act(number, action) {
    const answer = await fetch(`/app/jobs/${number}/${action}`, { method: "POST" });
    if (!answer.ok) { try { say(number, (await answer.json()).error); } catch { say(number, `the server answered ${answer.status}`); } return; }
    if (action === "remove" && shown === number) hide();
    look();
  }
  function say(number, words) {
    const line = root.querySelector(`[data-job="${number}"] .text`);
    if (line) { line.textContent = words; line.classList.add("bad"); }
  }
  function list(jobs) {
    root.querySelector("[data-none]").hidden = jobs.length > 0;
    const text = JSON.stringify(jobs);
    for (const job of jobs) {
      if (job.state === "done" && !finished.has(job.number)) {
        finished.add(job.number);
        if (!first || shown === null) { show(job); }
      }
    }
    first = false;
    if (text === known) return;
    known = text;
    const items = root.querySelector("[data-list]");
    const focus = document.activeElement && items.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    items.replaceChildren(...jobs.map(item));
    if (focus) { const again = items.querySelector(`[data-key="${focus}"]`); if (again) again.focus(); }
  }
  function item(job) {
    const line = make("li", undefined, job.state);
    line.dataset.job = job.number;
    const head = make("div", undefined, "head");
    head.append(make("b", `${job.number}`), make("span", job.title, "title"), make("span", NAMES[job.state], "state"));
    const words = job.took_s !== null && job.state === "done" ? `in ${Math.max(1, Math.round(job.took_s))} s` : job.text;
    head.append(make("span", short(words), "text" + (job.state === "failed" ? " bad" : "")));
    const buttons = make("span", undefined, "buttons");
    if (job.files.includes("edit.mp4") && job.state === "done") {
      const see = make("button", "Show");
      see.type = "button"; see.dataset.key = `${job.number}-show`; see.onclick = () => show(job, true);
      buttons.append(see, link(job, "edit.mp4", "Download"));
    }
    if (job.files.includes("edit.json") && job.state === "done") buttons.append(link(job, "edit.json", "Record"));
    if (job.files.includes("log.txt") && job.state !== "done") buttons.append(link(job, "log.txt", "Log"));
    for (const [action, name] of ACTIONS[job.state]) {
      const button = make("button", name);
      button.type = "button"; button.dataset.key = `${job.number}-${action}`; button.onclick = () => act(job.number, action);
      button.setAttribute("aria-label", `${name} job ${job.number}`);
      buttons.append(button);
    }
    head.append(buttons);
    line.append(head);
    if (job.state === "running") {
      const bar = make("progress");
      bar.max = 1; bar.value = job.share; bar.setAttribute("aria-label", `job ${job.number}`);
      line.append(bar, steps(job));
    }
    return line;
  }
  // The letters of the decisions are drawn below: the words are for a terminal.
  const short = (text) => text.replace(/ \([FPR-]+\)/, "");
  function link(job, name, words) {
    const found = make("a", words);
    found.href = `/app/jobs/${job.number}/${name}` + (name === "log.txt" ? "" : "?download=true");
    if (name === "log.txt") found.target = "_blank";
    found.dataset.key = `${job.number}-${name}`;
    found.setAttribute("aria-label", `${words} of job ${job.number}`);
    return found;
  }
  function steps(job) {
    const row = make("div", undefined, "steps");
    row.setAttribute("role", "img");
    row.setAttribute("aria-label", `decisions so far: ${job.decisions || "none"}`);
    for (let index = 0; index < job.steps; index++) row.append(make("i", undefined, KINDS[job.decisions[index]] || ""));
    return row;
  }
  function show(job, asked) {
    shown = job.number;
    const result = root.querySelector("[data-result]"), page = root.querySelector("[data-page]"), video = root.querySelector("[data-video]");
    result.hidden = false;
    root.querySelector("[data-title]").textContent = `Job ${job.number}: ${job.title}`;
    const hasPage = job.files.includes("edit.html");
    page.hidden = !hasPage; video.hidden = hasPage;
    if (hasPage) page.src = `/app/jobs/${job.number}/edit.html`; else { page.removeAttribute("src"); video.src = `/app/jobs/${job.number}/edit.mp4`; }
    if (asked) result.scrollIntoView({ behavior: "smooth" });
  }
  function hide() {
    shown = null;
    root.querySelector("[data-result]").hidden = true;
    root.querySelector("[data-page]").removeAttribute("src");
    root.querySelector("[data-video]").removeAttribute("src");
  }
  function begin() {
    root = document.getElementById("jobs");
    if (!root) { setTimeout(begin, 60); return; }
    window.hetcacheJobs = { look };
    look();
  }
  begin();
})();
