// The stage: open a clip, mark the thing, find it in every frame, look, correct.
"use strict";
(() => {
  const TINTS = { add: "#1fbf75", not: "#ff5a4f", box: "#ffd23f" };
  const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let root = null;
  const $ = (name) => root.querySelector(`[data-${name}]`);
  let state = { clip: null, marks: [], mask: { state: "none" } };
  let frame = 0, tool = "add", drag = null, cross = null, corner = null, playing = null, watching = null;
  let paint = null; // the canvas of the frame that is being painted
  const frames = new Map(), masks = new Map();

  async function call(path, options) {
    const answer = await fetch(`/app${path}`, options);
    if (answer.ok) return answer.json();
    let words = `the server answered ${answer.status}`;
    try { words = (await answer.json()).error || words; } catch { /* no JSON */ }
    throw new Error(words);
  }
  const post = (path, body) => call(path, { method: "POST", body });

  async function act(words, work) {
    $("error").hidden = true;
    busy(words);
    try {
      take(await work());
    } catch (error) {
      $("error").textContent = error instanceof TypeError ? "the page's server does not answer: is it still running?" : error.message;
      $("error").hidden = false;
    } finally {
      busy("");
    }
  }
  function busy(words) {
    $("busy").hidden = !words;
    $("busy").textContent = words;
  }

  // ---- what the server knows

  function take(next) {
    const other = !state.clip || !next.clip || state.clip.version !== next.clip.version;
    const before = state.mask;
    state = next;
    const clip = state.clip;
    if (other) {
      frames.clear(); masks.clear(); frame = 0; paint = null; cross = null; corner = null; stop();
    }
    for (const name of ["controls", "tools", "finding"]) $(name).hidden = !clip;
    $("empty").hidden = !!clip;
    if (!clip) { $("name").textContent = "or drop a video here"; return; }
    $("name").textContent = `${clip.name}, ${clip.width}x${clip.height}, ${clip.num_frames} frames`;
    $("frame").max = clip.num_frames - 1;
    const canvas = $("canvas");
    if (canvas.width !== clip.shown[1] || canvas.height !== clip.shown[0]) {
      canvas.width = clip.shown[1]; canvas.height = clip.shown[0];
    }
    const mask = state.mask, working = mask.state === "working";
    $("find").disabled = working || !state.marks.length;
    $("find").textContent = mask.state === "ready" ? "Find it again" : "Find it in every frame";
    $("find").classList.toggle("primary", mask.state !== "ready" || mask.stale);
    $("stop").hidden = $("progress").hidden = !working;
    $("progress").value = mask.total ? mask.done / mask.total : 0;
    $("words").className = mask.state === "failed" ? "bad" : "";
    $("words").textContent = wordsOf(mask);
    weakFrames(mask);
    if (working && !watching) watching = setTimeout(look, 400);
    if (before.state !== mask.state || before.version !== mask.version || other) {
      masks.clear();
      refresh();
    }
    show(Math.min(frame, clip.num_frames - 1));
  }
  function wordsOf(mask) {
    if (mask.state === "working") return mask.total ? `${Math.round(100 * mask.done / mask.total)} % (${mask.message})` : mask.message;
    if (mask.state === "failed") return mask.message;
    if (mask.state === "ready") return mask.stale ? "There are newer marks: find it again." : "The mask is ready: look through the frames.";
    return state.marks.length ? "" : "Click on the thing, draw a box around it, or paint it.";
  }
  function weakFrames(mask) {
    const row = $("weak");
    row.replaceChildren();
    row.hidden = mask.state !== "ready" || !mask.weak.length;
    if (row.hidden) return;
    row.append("Have a look at frame ");
    for (const index of mask.weak.slice(0, 12)) {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = index + 1; button.className = "small";
      button.setAttribute("aria-label", `go to frame ${index + 1}`);
      button.onclick = () => { stop(); show(index); };
      row.append(button);
    }
    if (mask.weak.length > 12) row.append(`and ${mask.weak.length - 12} more`);
  }
  async function look() {
    watching = null;
    try { take(await call("/state")); } catch { watching = setTimeout(look, 2000); }
  }
  // The form is Gradio's: it looks again when its hidden button is pressed.
  function refresh() {
    const button = document.querySelector("#refresh");
    if (button) (button.matches("button") ? button : button.querySelector("button")).click();
  }

  // ---- pictures

  const maskKey = (index) => `${state.mask.version}-${state.mask.state}-${JSON.stringify(state.marks.filter((m) => m.frame === index))}`;
  function picture(store, index, source) {
    let found = store.get(index);
    if (!found || found.source !== source) {
      const image = new Image();
      found = { image, source, ready: false };
      image.onload = () => { found.ready = true; if (index === frame) draw(); };
      image.src = source;
      store.set(index, found);
      if (store.size > 240) store.delete(store.keys().next().value);
    }
    return found;
  }
  const frameOf = (index) => picture(frames, index, `/app/frame/${state.clip.version}/${index}.jpg`);
  function maskOf(index) {
    if (state.mask.state !== "ready" && !state.marks.some((mark) => mark.frame === index)) return null;
    return picture(masks, index, `/app/mask/${index}.png?k=${encodeURIComponent(state.clip.version + maskKey(index))}`);
  }
  function show(index) {
    if (!state.clip) return;
    if (index !== frame) { paint = null; corner = null; drag = null; }
    frame = Math.max(0, Math.min(index, state.clip.num_frames - 1));
    $("frame").value = frame;
    $("frame-name").textContent = `${frame + 1} / ${state.clip.num_frames}`;
    for (const near of [frame, frame + 1, frame + 2]) if (near < state.clip.num_frames) { frameOf(near); if (state.mask.state === "ready") maskOf(near); }
    draw();
  }
  function draw() {
    if (!state.clip) return;
    const canvas = $("canvas"), context = canvas.getContext("2d"), seen = frameOf(frame);
    if (seen.ready) context.drawImage(seen.image, 0, 0, canvas.width, canvas.height);
    if (paint) context.drawImage(paint, 0, 0);
    else { const mask = maskOf(frame); if (mask && mask.ready) context.drawImage(mask.image, 0, 0, canvas.width, canvas.height); }
    const scale = canvas.width / state.clip.width;
    for (const mark of state.marks) if (mark.frame === frame) {
      if (mark.kind === "box") rectangle(context, mark.box.map((v) => v * scale));
      if (mark.kind === "point") dot(context, mark.point[0] * scale, mark.point[1] * scale, mark.positive);
    }
    if (drag && tool === "box") rectangle(context, [drag.x, drag.y, drag.toX, drag.toY]);
    if (corner && cross) rectangle(context, [corner.x, corner.y, cross.x, cross.y]);
    if (cross && document.activeElement === canvas) {
      context.strokeStyle = "#fff"; context.lineWidth = 3; plus(context, cross);
      context.strokeStyle = "#111"; context.lineWidth = 1; plus(context, cross);
    }
  }
  function plus(context, at) {
    context.beginPath();
    context.moveTo(at.x - 14, at.y); context.lineTo(at.x + 14, at.y);
    context.moveTo(at.x, at.y - 14); context.lineTo(at.x, at.y + 14);
    context.stroke();
  }
  function rectangle(context, [x0, y0, x1, y1]) {
    for (const [colour, width] of [["#111", 4], [TINTS.box, 2]]) {
      context.strokeStyle = colour; context.lineWidth = width;
      context.strokeRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    }
  }
  function dot(context, x, y, positive) {
    context.beginPath(); context.arc(x, y, 8, 0, 7);
    context.fillStyle = positive ? TINTS.add : TINTS.not; context.fill();
    context.strokeStyle = "#111"; context.lineWidth = 2; context.stroke();
    context.beginPath(); context.moveTo(x - 4, y); context.lineTo(x + 4, y);
    if (positive) { context.moveTo(x, y - 4); context.lineTo(x, y + 4); }
    context.stroke();
  }

  // ---- marking

  const send = (marks) => act("", () => post("/marks", JSON.stringify(marks)));
  function toClip(at) {
    const scale = state.clip.width / $("canvas").width;
    return [Math.min(at.x * scale, state.clip.width - 1), Math.min(at.y * scale, state.clip.height - 1)];
  }
  function addPoint(at, positive) {
    send([...state.marks, { kind: "point", frame, point: toClip(at), positive }]);
  }
  function addBox(from, to) {
    const [x0, y0] = toClip({ x: Math.min(from.x, to.x), y: Math.min(from.y, to.y) });
    const [x1, y1] = toClip({ x: Math.max(from.x, to.x), y: Math.max(from.y, to.y) });
    if (x1 - x0 < 3 || y1 - y0 < 3) { draw(); return; }
    const others = state.marks.filter((mark) => mark.frame !== frame || mark.kind !== "box");
    send([...others, { kind: "box", frame, box: [x0, y0, x1, y1] }]);
  }
  function position(event) {
    const canvas = $("canvas"), box = canvas.getBoundingClientRect();
    const clamp = (value, most) => Math.max(0, Math.min(value, most));
    return {
      x: clamp((event.clientX - box.left) * canvas.width / box.width, canvas.width),
      y: clamp((event.clientY - box.top) * canvas.height / box.height, canvas.height),
    };
  }
  function beginPaint() {
    if (paint) return;
    paint = document.createElement("canvas");
    paint.width = $("canvas").width; paint.height = $("canvas").height;
    const mask = maskOf(frame);
    if (mask && mask.ready) paint.getContext("2d").drawImage(mask.image, 0, 0, paint.width, paint.height);
  }
  function stroke(from, to) {
    const context = paint.getContext("2d");
    context.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
    context.strokeStyle = tool === "erase" ? "#000" : "rgb(226 60 48)";
    context.lineWidth = Number($("size").value); context.lineCap = context.lineJoin = "round";
    context.beginPath(); context.moveTo(from.x, from.y); context.lineTo(to.x + 0.01, to.y); context.stroke();
    draw();
  }
  function sendPaint() {
    const at = frame, painted = paint;
    painted.toBlob((blob) => act("", async () => {
      const next = await post(`/painted/${at}`, blob);
      if (paint === painted) paint = null;
      return next;
    }), "image/png");
  }

  // ---- events

  function stop() {
    clearInterval(playing); playing = null;
    $("play").textContent = "play";
  }
  function open(file) {
    if (!file) return;
    const most = state.limits ? state.limits.mib * 1048576 : Infinity;
    if (file.size > most) {
      $("error").textContent = `the file is larger than ${state.limits.mib} MiB: cut or re-encode it, or start the page with --max-mib`;
      $("error").hidden = false;
      return;
    }
    act(`opening ${file.name}`, () => post(`/clip?name=${encodeURIComponent(file.name)}`, file));
  }
  function bind() {
    $("open").onclick = () => $("file").click();
    $("file").onchange = (event) => { open(event.target.files[0]); event.target.value = ""; };
    $("example").onclick = () => act("opening the example", () => post("/example"));
    const screen = $("screen"), canvas = $("canvas");
    screen.ondragover = (event) => { event.preventDefault(); screen.classList.add("over"); };
    screen.ondragleave = () => screen.classList.remove("over");
    screen.ondrop = (event) => { event.preventDefault(); screen.classList.remove("over"); open(event.dataTransfer.files[0]); };
    $("frame").oninput = (event) => { stop(); show(Number(event.target.value)); };
    $("back").onclick = () => { stop(); show(frame - 1); };
    $("forward").onclick = () => { stop(); show(frame + 1); };
    $("play").onclick = () => {
      if (playing) { stop(); return; }
      $("play").textContent = "stop";
      playing = setInterval(() => show((frame + 1) % state.clip.num_frames), 1000 / Math.min(state.clip.fps, 30));
    };
    for (const button of root.querySelectorAll("[data-tool]")) button.onclick = () => {
      tool = button.dataset.tool; corner = null;
      for (const other of root.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", other === button);
      $("brush").hidden = tool !== "paint" && tool !== "erase";
    };
    $("undo").onclick = () => send(state.marks.slice(0, -1));
    $("clear").onclick = () => send([]);
    $("find").onclick = () => act("", () => post("/propagate"));
    $("stop").onclick = () => act("", () => post("/propagate/cancel"));
    canvas.onpointerdown = (event) => {
      if (!state.clip || event.button) return;
      stop(); canvas.setPointerCapture(event.pointerId);
      const at = position(event);
      drag = { ...at, toX: at.x, toY: at.y };
      if (tool === "paint" || tool === "erase") { beginPaint(); stroke(at, at); }
    };
    canvas.onpointermove = (event) => {
      if (!drag) return;
      const at = position(event);
      if (tool === "paint" || tool === "erase") stroke({ x: drag.toX, y: drag.toY }, at);
      drag.toX = at.x; drag.toY = at.y;
      if (tool === "box") draw();
    };
    canvas.onpointerup = () => {
      if (!drag) return;
      const done = drag;
      drag = null;
      if (tool === "box") addBox(done, { x: done.toX, y: done.toY });
      else if (tool === "paint" || tool === "erase") sendPaint();
      else addPoint({ x: done.toX, y: done.toY }, tool === "add");
    };
    canvas.onpointercancel = () => { drag = null; paint = null; draw(); };
    canvas.onfocus = canvas.onblur = draw;
    canvas.onkeydown = key;
  }
  function key(event) {
    if (!state.clip || event.ctrlKey || event.metaKey || event.altKey) return;
    const canvas = $("canvas");
    cross = cross || { x: canvas.width / 2, y: canvas.height / 2 };
    if (event.key in KEYS) {
      const [x, y] = KEYS[event.key], step = event.shiftKey ? 1 : 10;
      cross = { x: Math.max(0, Math.min(canvas.width - 1, cross.x + x * step)), y: Math.max(0, Math.min(canvas.height - 1, cross.y + y * step)) };
    } else if (event.key === "Enter" || event.key === " ") {
      if (tool === "add" || tool === "not") addPoint(cross, tool === "add");
      else if (tool === "paint" || tool === "erase") { beginPaint(); stroke(cross, cross); sendPaint(); }
      else if (corner) { addBox(corner, cross); corner = null; }
      else corner = { ...cross };
    } else if (event.key === ",") show(frame - 1);
    else if (event.key === ".") show(frame + 1);
    else if (event.key === "Escape") corner = null;
    else return;
    event.preventDefault();
    draw();
  }

  // Gradio builds the page after this file is read.
  function begin() {
    const found = document.getElementById("stage");
    if (!found || !document.querySelector("#refresh")) { setTimeout(begin, 60); return; }
    root = found;
    const refresher = document.querySelector("#refresh");
    for (const each of [refresher, ...refresher.querySelectorAll("button")]) { each.tabIndex = -1; each.setAttribute("aria-hidden", "true"); }
    bind();
    root.dataset.ready = "yes";
    look();
  }
  begin();
})();
