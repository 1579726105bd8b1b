// Texts that are seen with a contrast below WCAG's AA: 4.5, or 3 for large ones. Disabled controls are exempt.
() => {
  const parse = (text) => { const v = (text.match(/[\d.]+/g) || []).map(Number); return v.length < 3 ? null : { c: v.slice(0, 3), a: v.length > 3 ? v[3] : 1 }; };
  const light = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const over = (top, alpha, under) => top.map((v, i) => v * alpha + under[i] * (1 - alpha));
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const found = parse(getComputedStyle(e).backgroundColor);
      if (found && found.a > 0) { layers.push(found); if (found.a === 1) break; }
    }
    return layers.reverse().reduce((under, layer) => over(layer.c, layer.a, under), [255, 255, 255]);
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!words || !box.width || !box.height || style.visibility === "hidden" || element.closest(".screen, :disabled, #refresh, [aria-hidden=true], script, style")) continue;
    const ink = parse(style.color), back = behind(element);
    if (!ink) continue;
    const [a, b] = [light(over(ink.c, ink.a, back)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) poor.push(`${words.slice(0, 40)}: ${ratio.toFixed(2)} (${style.color} on ${back.map(Math.round)})`);
  }
  return [...new Set(poor)];
}
