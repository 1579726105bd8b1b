"use strict";

const COLOURS = ["184,196,207", "242,194,48", "224,72,47"];  // context, margin, generative

function viewer(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const shown = data.panels.map(p => p.tile ?? p.choose ?? null);
  const wipe = data.panels.map(() => 0.5);
  const canvases = [...root.querySelectorAll("canvas")];
  const scrub = root.querySelector("[data-scrub]"), name = root.querySelector("[data-frame-name]");
  const play = root.querySelector("[data-play]");
  const poster = new Image(), video = document.createElement("video");
  video.muted = video.playsInline = video.loop = true;
  video.preload = "auto";
  let ready = false;
  canvases.forEach(c => { c.width = data.width; c.height = data.height; });

  const picture = () => (ready ? video : poster);
  function part(context, tile, x0 = 0, x1 = data.width) {
    const x = (tile % data.columns) * data.width, y = Math.floor(tile / data.columns) * data.height;
    if (x1 > x0) context.drawImage(picture(), x + x0, y, x1 - x0, data.height, x0, 0, x1 - x0, data.height);
  }
  function draw() {
    data.panels.forEach((panel, index) => {
      const canvas = canvases[index], context = canvas.getContext("2d");
      context.globalCompositeOperation = "copy";
      if (panel.difference) {
        part(context, shown[panel.difference[0]]);
        context.globalCompositeOperation = "difference";
        part(context, panel.difference[1]);
        context.globalCompositeOperation = "lighter";
        for (let doubling = 0; doubling < 2; doubling++) context.drawImage(canvas, 0, 0);
      } else if (panel.wipe) {
        const middle = Math.round(wipe[index] * data.width);
        part(context, panel.wipe[0]);
        context.globalCompositeOperation = "source-over";
        part(context, panel.wipe[1], middle, data.width);
        context.fillStyle = "#fff";
        context.fillRect(middle - 1, 0, 2, data.height);
      } else {
        part(context, shown[index]);
      }
    });
    if (ready && !video.paused) show(Math.min(data.frames - 1, Math.floor(video.currentTime * data.fps + 0.01)));
  }
  function show(frame) {
    scrub.value = frame;
    name.textContent = `${frame + 1} / ${data.frames}`;
  }
  function seek(frame) {
    frame = (frame + data.frames) % data.frames;
    show(frame);
    if (ready) video.currentTime = (frame + 0.5) / data.fps;
  }
  function toggle(on) {
    if (on) video.play(); else video.pause();
    play.textContent = on ? "pause" : "play";
  }
  function tick() {
    if (!video.paused) draw();
    requestAnimationFrame(tick);
  }
  poster.onload = draw;
  poster.src = data.poster;
  video.onloadeddata = () => { ready = true; seek(Number(scrub.value)); draw(); };
  video.onseeked = draw;
  video.onerror = () => { play.disabled = true; name.textContent = "this browser cannot play H.264"; };
  video.src = data.video;
  scrub.oninput = () => { toggle(false); seek(Number(scrub.value)); };
  play.onclick = () => toggle(video.paused);
  root.querySelector("[data-back]").onclick = () => { toggle(false); seek(Number(scrub.value) - 1); };
  root.querySelector("[data-forward]").onclick = () => { toggle(false); seek(Number(scrub.value) + 1); };
  root.querySelectorAll("[data-choice]").forEach(menu => {
    menu.onchange = () => { shown[menu.dataset.choice] = Number(menu.value); draw(); };
  });
  canvases.forEach((canvas, index) => {
    if (!data.panels[index].wipe) return;
    canvas.onpointermove = event => {
      const box = canvas.getBoundingClientRect();
      wipe[index] = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      draw();
    };
    canvas.onpointerdown = canvas.onpointermove;
  });
  requestAnimationFrame(tick);
}

function tokens(root) {
  const data = JSON.parse(root.querySelector("script").textContent), maps = data.maps;
  const find = name => root.querySelector(`[data-${name}]`);
  const method = find("method"), step = find("step"), frame = find("frame");
  const images = new Map();

  function picture(source) {
    if (!images.has(source)) {
      const image = new Image();
      image.onload = draw;
      image.src = source;
      images.set(source, image);
    }
    return images.get(source);
  }
  function bits(text) {
    const raw = atob(text);
    return index => (raw.charCodeAt(index >> 3) >> (7 - (index & 7))) & 1;
  }
  function reset() {
    const map = maps[method.value], steps = Object.keys(map.rows), most = [0, -1];
    const [frames, height, width] = map.grid;
    for (let f = 0; f < frames; f++) {
      const labels = map.labels.slice(f * height * width, (f + 1) * height * width);
      const count = labels.split("2").length - 1;
      if (count > most[1]) { most[0] = f; most[1] = count; }
    }
    step.max = steps.length - 1;
    step.value = 0;
    frame.max = frames - 1;
    frame.value = most[0];
    draw();
  }
  function paint(canvas, image, map, f, colour) {
    const [, height, width] = map.grid;
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d"), w = canvas.width / width, h = canvas.height / height;
    context.drawImage(image, 0, 0);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const index = (f * height + y) * width + x;
        const style = colour(index, Number(map.labels[index]));
        if (!style) continue;
        context.fillStyle = style;
        context.fillRect(x * w + 0.5, y * h + 0.5, w - 1, h - 1);
      }
    }
  }
  function draw() {
    const map = maps[method.value], f = Number(frame.value), steps = Object.keys(map.rows);
    const image = picture(data.images[map.images[f]]), total = map.labels.length;
    find("frame-name").textContent = `${f + 1} / ${map.grid[0]}`;
    find("step-name").textContent = steps.length ? `${Number(steps[step.value]) + 1}` : "none";
    if (!image.complete || !image.naturalWidth) return;
    paint(find("classes"), image, map, f, (index, label) => label ? `rgba(${COLOURS[label]},.55)` : null);
    const count = [0, 0, 0];
    for (const letter of map.labels) count[Number(letter)]++;
    const share = n => `${Math.round(100 * n / total)} %`;
    root.querySelectorAll("[data-count]").forEach(span => { span.textContent = share(count[span.dataset.count]); });
    const computed = steps.length ? bits(map.rows[steps[step.value]]) : () => 1;
    const done = [0, 0, 0];
    for (let index = 0; index < total; index++) if (computed(index)) done[Number(map.labels[index])]++;
    paint(find("computed"), image, map, f, (index, label) =>
      computed(index) ? `rgba(${COLOURS[label]},${label ? 0.38 : 0.6})` : "rgba(10,16,24,.72)");
    const sum = done[0] + done[1] + done[2];
    find("computed-counts").textContent =
      `computed: ${sum} of ${total} tokens (${share(sum)}): ${done[2]} of ${count[2]} generative, ` +
      `${done[1]} of ${count[1]} margin, ${done[0]} of ${count[0]} context`;
  }
  method.onchange = reset;
  step.oninput = frame.oninput = draw;
  reset();
}

document.querySelectorAll("[data-viewer]").forEach(viewer);
document.querySelectorAll("[data-tokens]").forEach(tokens);
document.querySelectorAll("[data-copy]").forEach(button => {
  button.onclick = async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1200);
  };
});
