// Terrapool: the one client module. Every page works without it; it only removes waiting and typing.
// Progressive parts: copy buttons, ticking times, filter-as-you-type, log follow, keyboard, live fragments.

const $ = (sel, root = document) => root.querySelector(sel);
const $$ = (sel, root = document) => [...root.querySelectorAll(sel)];

// --- copy ------------------------------------------------------------------------------------------
// <button data-copy="id">: copies the text of #id; says so to the eye and to the screen reader.
addEventListener("click", async (ev) => {
  const button = ev.target.closest("[data-copy]");
  if (!button) return;
  const label = $("span", button);
  try {
    await navigator.clipboard.writeText($("#" + button.dataset.copy).textContent.trim());
    label.textContent = "Copied";
    say("Copied");
  } catch {
    getSelection().selectAllChildren($("#" + button.dataset.copy));
    label.textContent = "Press Ctrl C";
  }
  setTimeout(() => (label.textContent = "Copy"), 2000);
});

// --- announcements: one polite region, only for changes of status, never for log lines ----------------
function say(text) {
  const region = $("#say");
  if (region) region.textContent = text;
}

// --- forms: a double click sends them once ----------------------------------------------------------------
addEventListener("submit", ({ target: form }) => {
  form.inert = true;
  setTimeout(() => (form.inert = false), 3000);
});

// --- times: the server writes the words, the client keeps them true -------------------------------------
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
export function ago(seconds) {
  const [size, unit] = UNITS.find(([s]) => seconds >= s) ?? [1, "s"];
  return `${Math.floor(Math.max(seconds, 0) / size)} ${unit} ago`;
}
function tick() {
  const now = Date.now();
  for (const t of $$("time[data-ago]")) t.textContent = ago((now - Date.parse(t.dateTime)) / 1000);
}
setInterval(tick, 1000);

// --- filter a list that is wholly on the page (otherwise the form's GET does it) -------------------------
for (const input of $$("[data-filters]")) {
  const rows = $$("#" + input.dataset.filters + " > *");
  input.addEventListener("input", () => {
    const q = input.value.toLowerCase();
    let left = 0;
    for (const row of rows) left += !(row.hidden = !row.textContent.toLowerCase().includes(q));
    say(`${left} rows`);
  });
}

// --- log: follow, wrap, fold -------------------------------------------------------------------------------
for (const log of $$(".log")) follow(log);
function follow(log) {
  const box = log.closest(".panel");
  const button = $("[data-follow]", box);
  const stick = () => button?.getAttribute("aria-pressed") === "true" && (log.scrollTop = log.scrollHeight);
  new MutationObserver(stick).observe(log, { childList: true, subtree: true });
  log.addEventListener("wheel", (ev) => ev.deltaY < 0 && set(false), { passive: true });
  log.addEventListener("scroll", () => log.scrollHeight - log.scrollTop - log.clientHeight < 4 && log.dataset.live && set(true), { passive: true });
  function set(on) { button?.setAttribute("aria-pressed", on); stick(); }
  button?.addEventListener("click", () => set(button.getAttribute("aria-pressed") !== "true"));
  $("[data-wrap]", box)?.addEventListener("click", (ev) => ev.currentTarget.setAttribute("aria-pressed", log.classList.toggle("wrap")));
  stick();
  const fault = !location.hash && $$(".ln.e", log).at(-1);
  if (fault) log.scrollTop += fault.getBoundingClientRect().bottom - log.getBoundingClientRect().bottom;

  // windowing: a chunk is 500 lines with a fixed height; it is filled when near the view and emptied when far
  const near = new IntersectionObserver((entries) => {
    for (const { target: chunk, isIntersecting } of entries) {
      if (!isIntersecting) chunk.replaceChildren();
      else if (!chunk.firstChild) fill(chunk);
    }
  }, { root: log, rootMargin: "1500px 0px" });
  for (const chunk of $$(".chunk.full[data-src]", log)) near.observe(chunk);
}
async function fill(chunk) {
  const answer = await fetch(chunk.dataset.src, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const part = new DOMParser().parseFromString(await answer.text(), "text/html").body;
  chunk.replaceChildren(...part.childNodes);
  tint();
}

// --- links to lines: #plan-L12, #plan-L12-20; the chunk that has them is filled first -----------------------------
let aim;
addEventListener("hashchange", jump);
jump();
function tint() {
  for (let n = aim?.from; n <= aim?.to; n++) document.getElementById(`${aim.phase}-L${n}`)?.classList.add("hit");
}
async function jump() {
  if (aim) for (const line of $$(".ln.hit")) line.classList.remove("hit");
  const [hash, phase, from, to] = location.hash.match(/^#(plan|apply)-L(\d+)(?:-(\d+))?$/) ?? [];
  aim = hash && { phase, from: +from, to: Math.min(to ?? from, +from + 2000) };
  const log = aim && $(`#${phase}-log .log`);
  if (!log) return;
  $(`#${phase}-fold`).open = true;
  $(`#${phase}-log [data-follow]`)?.setAttribute("aria-pressed", false);
  const line = () => document.getElementById(`${phase}-L${from}`);
  if (!line()) {
    const chunk = $$(".chunk[data-from]", log).find((c) => +c.dataset.from <= aim.from && aim.from <= +c.dataset.to);
    if (chunk) await fill(chunk);
    else if (aim.from <= +log.dataset.total) {
      const page = `?phase=${phase}&from=${Math.max(aim.from - 500, 1)}`;
      if (location.search !== page) return location.assign(page + hash);
    }
  }
  tint();
  line()?.scrollIntoView({ block: "center" });
}
for (const current of $$(".phases [aria-current], .tabs [aria-current]")) current.scrollIntoView({ block: "nearest", inline: "center" });
bindOpen(document);
function bindOpen(root) {
  for (const button of $$("[data-open]", root))
    button.addEventListener("click", () => {
      const all = $$("details", $("#" + button.dataset.open));
      const open = !all.every((d) => d.open);
      for (const d of all) d.open = open;
    });
}

// --- keyboard: single keys only outside fields, and only if the user has not switched them off --------------
let prefix = "";
const GO = { w: "workspaces", r: "runs", p: "agent-pools", f: "fleet", a: "audit" };
addEventListener("keydown", (ev) => {
  if (ev.ctrlKey || ev.metaKey || ev.altKey || ev.target.closest("input, select, textarea, [contenteditable]")) return;
  if (document.documentElement.dataset.keys === "off") return;
  if (prefix === "g") {
    const link = GO[ev.key] && $(`#nav a[data-go="${GO[ev.key]}"]`);
    prefix = "";
    if (link) return link.click();
  }
  const rows = $$("tbody th a, .tree > details > summary");
  const at = rows.indexOf(document.activeElement);
  const keys = {
    g: () => (prefix = "g"),
    "/": () => $("main input[type=search], .find input")?.focus(),
    "?": () => $("#keys")?.togglePopover(),
    j: () => rows[Math.min(at + 1, rows.length - 1)]?.focus(),
    k: () => rows[Math.max(at - 1, 0)]?.focus(),
    f: () => $("[data-follow]")?.click(),
    e: () => $("[data-open]")?.click(),
    n: () => hit(1),
    N: () => hit(-1),
    // focus only: a key press never confirms an apply
    a: () => $("[data-key=a]")?.focus(),
  };
  if (keys[ev.key]) { keys[ev.key](); ev.preventDefault(); }
});

// The next or previous line of a log that was found; beyond those on the page, the page that has it.
function hit(step) {
  const all = $$(".ln.hit");
  let at = all.indexOf(document.activeElement.parentNode);
  if (at < 0) at = all.indexOf($(":target"));
  if (at < 0) at = step < 0 ? all.length : -1;
  const { before, after } = all[0]?.closest(".log").dataset ?? {};
  const page = step < 0 ? before : after;
  if (all[at + step]) all[at + step].firstChild.focus();
  else if (page) location.assign(page);
}

// --- theme: the server can't know the system's wish, so the form tells it ----------------------------------------
$("[data-theme-form]")?.addEventListener("submit", (ev) => {
  ev.currentTarget.elements.seen.value = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
});

// --- live: server-sent events carry ready HTML; an element with the same id is replaced ----------------------------
// event: swap   data: <tr id="agent-…">…</tr>      event: log   data: {"into":"plan-lines","html":"…"}
// event: say    data: text                         event: title data: text         event: end: nothing more comes
// event: stale  data: why a reload helps
const src = document.documentElement.dataset.events;
if (src) connect(new EventSource(src));
export function connect(source) {
  const live = $("#live");
  // what came while the keyboard was inside its element
  const held = new Map();
  // since when nothing can come; whether the tab was hidden for long
  let lost = 0, idle, paused;
  function mark() {
    const age = lost && Date.now() - lost;
    const on = age < 5000;
    live.hidden = false;
    live.dataset.state = on ? "on" : "off";
    live.className = "st " + (on ? "good" : "warn");
    $("[data-word]", live).textContent = on ? "Live" : "Reconnecting, shown as it was " + ago(age / 1000);
    if (age > 60000) offer("The server cannot be reached: this page is not up to date.");
  }
  // a reload is offered, never forced
  function offer(why) {
    const banner = $("#stale");
    if (!banner.hidden) return;
    banner.hidden = false;
    $("p", banner).textContent = why;
  }
  const timer = setInterval(() => lost && mark(), 1000);
  source.addEventListener("open", () => { if (lost) $("#stale").hidden = true; lost = 0; mark(); });
  source.addEventListener("error", () => (lost ||= Date.now()));
  source.addEventListener("stale", ({ data }) => offer(data));
  document.addEventListener("visibilitychange", () => {
    clearTimeout(idle);
    if (document.hidden) idle = setTimeout(() => { source.close(); paused = live && !live.hidden; }, 300000);
    else if (paused) $(":popover-open") ? offer("Updates were paused while this tab was hidden.") : location.reload();
  });
  source.addEventListener("swap", ({ data }) => {
    const next = new DOMParser().parseFromString(`<template>${data}</template>`, "text/html").querySelector("template").content.firstElementChild;
    if (next) swap(next);
  });
  function swap(next) {
    const old = document.getElementById(next.id);
    if (!old) return;
    if (old.contains(document.activeElement) || $(":popover-open", old)) { held.set(next.id, next); return; } // never pull the ground from under the keyboard
    held.delete(next.id);
    for (const d of $$("details[id]", old)) { const same = $("#" + d.id, next); if (same) same.open = d.open; }
    const fresh = document.importNode(next, true);
    old.replaceWith(fresh);
    for (const log of $$(".log", fresh)) follow(log);
    bindOpen(fresh);
  }
  for (const left of ["focusout", "toggle"])
    document.addEventListener(left, () => setTimeout(() => { for (const next of [...held.values()]) swap(next); }, 0), true);
  source.addEventListener("log", ({ data }) => {
    const { into, html } = JSON.parse(data);
    const part = new DOMParser().parseFromString(html, "text/html").body;
    const box = document.getElementById(into);
    box?.append(...part.childNodes);
    while (box?.childElementCount > 2000) box.firstElementChild.remove(); // the page keeps the end; a reload has the rest
  });
  source.addEventListener("say", ({ data }) => say(data));
  source.addEventListener("title", ({ data }) => (document.title = data + " · Terrapool"));
  source.addEventListener("end", () => { source.close(); clearInterval(timer); live.hidden = true; });
  addEventListener("pagehide", () => source.close());
}
