const problems = [];
const root = document.documentElement;
if (root.scrollWidth > innerWidth) problems.push(`wider than the window: ${root.scrollWidth} > ${innerWidth}`);
if (document.querySelectorAll("h1").length !== 1) problems.push("not exactly one h1");
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`two elements are called ${id}`);
for (const e of document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea, summary")) {
  const name = (e.ariaLabel ?? "") + e.textContent + [...(e.labels ?? [])].map((l) => l.textContent).join("");
  if (!name.trim()) problems.push("no name: " + e.outerHTML.slice(0, 120));
}
for (const e of document.querySelectorAll("table")) if (!e.caption) problems.push("a table without a caption");
for (const form of document.querySelectorAll('form[method="post"]:not([action="/sign-in"])'))
  for (const name of ["token", "once"])
    if (!form.querySelector(`[name=${name}]`)?.value) problems.push(`a form to ${form.action} without ${name}`);
if (document.querySelector("[style], [onclick], [onload], [onerror]")) problems.push("a style or a script inside");

// Contrast. Computed colours are rgb() or, where they are mixed, color(srgb …).
function colour(text) {
  const numbers = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
  const unit = text.startsWith("color(") ? 1 : 255;
  return [...numbers.slice(0, 3).map((n) => n / unit), numbers[3] ?? 1];
}
function over([r, g, b, a], [R, G, B]) {
  return [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
}
function luminance([r, g, b]) {
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
}
function ground(e) {
  const layers = [];
  for (let at = e; at; at = at.parentElement) {
    const layer = colour(getComputedStyle(at).backgroundColor);
    if (layer[3] > 0) layers.push(layer);
    if (layer[3] === 1) break;
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return layers.reverse().reduce((under, layer) => over(layer, under), dark ? [0, 0, 0, 1] : [1, 1, 1, 1]);
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const poor = new Set();
for (let node = texts.nextNode(); node; node = texts.nextNode()) {
  const e = node.parentElement;
  if (!node.data.trim() || e.closest("script, noscript, svg, :disabled, [aria-disabled=true]")) continue;
  if (!e.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
  const style = getComputedStyle(e);
  const under = ground(e);
  const [one, two] = [over(colour(style.color), under), under].map(luminance);
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) poor.add(`contrast ${ratio.toFixed(2)}: "${node.data.trim().slice(0, 40)}" in ${e.className || e.tagName}`);
}
problems.push(...[...poor].slice(0, 5));
return problems.join("; ");
