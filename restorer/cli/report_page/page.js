// The page: the overview, the pair that is shown, its details, buttons and keys. All texts are inserted as text.
"use strict";

const element = (id) => document.getElementById(id);
const content = JSON.parse(element("content").textContent);
const MODES = ["slider", "side", "difference", "uncertainty"];
const STEP = 1.25; // magnification for a press of a button or key
const ARROW = 48; // pixels of the screen for a press of an arrow key
const KEYS = [
  ["Slider, side by side, difference", "S", "B", "D"],
  ["Move the line", "[", "]"],
  ["Zoom", "+", "−", "wheel", "pinch"],
  ["Original size, whole picture", "1", "0", "double click"],
  ["Move the pictures", "arrows", "drag"],
  ["Details", "I"],
];
const MAP_KEYS = [["Map of the uncertainty", "U"]];
const GALLERY_KEYS = [
  ["Previous, next pair", "P", "N"],
  ["All pictures", "Esc"],
];
const SORTS = {
  name: ["Name", () => 0],
  low: ["PSNR, lowest first", (pair) => psnrOf(pair)],
  high: ["PSNR, highest first", (pair) => -psnrOf(pair)],
  worse: ["Gain of B over A, lowest first", (pair) => gainOf(pair)],
  better: ["Gain of B over A, highest first", (pair) => -gainOf(pair)],
  doubt: ["Uncertainty, highest first", (pair) => -(pair.uncertainty?.value ?? NaN)],
};

const hasReference = content.pairs.some((pair) => pair.pictures.length > 2);
const hasMaps = content.pairs.some((pair) => pair.uncertainty);
let order = content.pairs.map((_, index) => index);
let current = null; // the index of the pair that is shown

// Creates an element with a text, or with children.
function make(name, text = "", properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...[text].flat());
  return made;
}

// ------------------------------------------------------------------------------------------------------ the overview

// Returns the PSNR of B, which is infinite for equal pictures, or NaN if the pair has no figures.
function psnrOf(pair, name = "B") {
  const figure = pair.figures.find((found) => found.of === name);
  return figure ? (figure.value ?? Infinity) : NaN;
}

function gainOf(pair) {
  const [a, b] = [psnrOf(pair, "A"), psnrOf(pair)];
  return a === b ? 0 : b - a;
}

function sort() {
  const [, key] = SORTS[element("sort").value];
  const keys = content.pairs.map(key);
  const last = (value) => (Number.isNaN(value) ? 1 : 0); // pairs without figures come last
  const compare = (i, j) => last(keys[i]) - last(keys[j]) || (keys[i] < keys[j] ? -1 : keys[i] > keys[j] ? 1 : i - j);
  order = content.pairs.map((_, index) => index).sort(compare);
  element("cards").append(...order.map((index) => element(`card-${index}`)));
}

function makeCard(pair, index) {
  const images = pair.thumbnails.map((src, i) => {
    const { role, name } = pair.pictures[i];
    return make("img", "", { src, alt: `${role} ${name}`, loading: "lazy", decoding: "async" });
  });
  const figures = pair.figures.map(({ of, short }) => `${pair.figures.length > 1 ? `${of} ` : ""}${short}`);
  const text = [make("h2", pair.name), make("p", figures.join(" · ") || "no figures", { className: "facts" })];
  const pictures = images.length ? images : [make("span", "no room for pictures", { className: "empty" })];
  return make("a", [make("div", pictures, { className: "pair" }), make("div", text, { className: "text" })], {
    id: `card-${index}`,
    className: "card",
    href: `#${index + 1}`,
  });
}

function fillGallery() {
  element("title").textContent = content.title;
  const count = `${content.pairs.length} ${content.pairs.length === 1 ? "pair" : "pairs"}`;
  element("summary").textContent = [count, ...content.summary].join(" · ");
  element("skipped").append(...content.notes.map((note) => make("li", note)));
  element("skipped").hidden = !content.notes.length;
  const isOffered = (name) => (name === "doubt" ? hasMaps : hasReference || !["worse", "better"].includes(name));
  const sorts = Object.entries(SORTS).filter(([name]) => isOffered(name));
  element("sort").append(...sorts.map(([value, [label]]) => make("option", label, { value })));
  element("sort").addEventListener("change", sort);
  element("cards").append(...content.pairs.map(makeCard));
}

// ------------------------------------------------------------------------------------------------------- the details

function makeFigures(figures) {
  const head = ["", "PSNR", "SSIM", "mean", "largest"].map((text) => make("th", text));
  const rows = figures.map(({ of, against, psnr, ssim, mean, largest }) =>
    make("tr", [`${of} to ${against}`, psnr, ssim || "–", mean, largest].map((text) => make("td", text))),
  );
  const table = make("table", [make("thead", make("tr", head)), make("tbody", rows)]);
  const hint = "The mean and the largest difference are on the scale of 0 to 255.";
  return [make("h2", "Figures"), table, make("p", hint, { className: "facts" })];
}

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code); // the browser refuses the clipboard: select the text at least
    if (!document.execCommand("copy")) return;
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

function makePicture({ role, name, facts, record }) {
  const parts = [make("h2", `${role} · ${name}`), make("p", facts, { className: "facts" })];
  if (!record) return [...parts, make("p", "The file has no record of restore.", { className: "facts" })];
  const rows = record.rows.flatMap(([label, text]) => [make("dt", label), make("dd", text)]);
  const [code, button] = [make("code", record.command), make("button", "Copy")];
  button.addEventListener("click", () => copy(code, button));
  const command = [make("h3", "This command makes it again"), make("div", [code, button], { className: "command" })];
  return [...parts, make("dl", rows), ...command];
}

function makeUncertainty({ name, facts, lines }) {
  const parts = [make("h2", `Uncertainty · ${name}`), make("p", facts, { className: "facts" })];
  return [...parts, make("ul", lines.map((line) => make("li", line)), { className: "notes" })];
}

function fillLegend({ bands, hasKnown }) {
  element("bands").replaceChildren(
    ...bands.map(({ label, share, colour }) => {
      const swatch = make("span", "", { className: "swatch" });
      swatch.style.background = colour;
      return make("li", [swatch, make("span", label), make("span", share, { className: "share" })]);
    }),
  );
  element("known").hidden = !hasKnown;
  element("here").textContent = "";
}

function fillDetails(pair) {
  const notes = pair.notes.map((note) => make("li", note));
  const more = [...(pair.uncertainty ? MAP_KEYS : []), ...(content.isGallery ? GALLERY_KEYS : [])];
  const keys = [...KEYS, ...more].flatMap(([label, ...names]) => [
    make("dt", label),
    make("dd", names.map((name) => make("kbd", name))),
  ]);
  element("details").replaceChildren(
    ...(pair.figures.length ? makeFigures(pair.figures) : [make("h2", "No figures")]),
    ...(notes.length ? [make("ul", notes, { className: "notes" })] : []),
    ...(pair.uncertainty ? makeUncertainty(pair.uncertainty) : []),
    ...pair.pictures.flatMap(makePicture),
    make("h2", "Keys and gestures"),
    make("dl", keys, { className: "keys" }),
  );
}

function toggleDetails(isShown = element("details").hidden) {
  element("details").hidden = !isShown;
  element("info").setAttribute("aria-expanded", isShown);
}

// ---------------------------------------------------------------------------------------------------------- the pair

const view = new View(element("canvas"), {
  onMove: () => (element("scale").textContent = formatScale(view.scale * view.ratio)),
  onDivider: () => (element("divider").value = 100 * view.divider),
  onPoint: (x, y) => tellHere(x, y),
});

// Says how uncertain the pixel under the pointer is.
function tellHere(x, y) {
  if (view.mode !== "uncertainty" || !view.overlay) return;
  const levels = view.overlay.map.levels(x / view.width, y / view.height);
  const text = levels ? `± ${levels < 10 ? levels.toFixed(1) : Math.round(levels)} levels` : "the input itself";
  element("here").textContent = levels === null ? "" : `here: ${text}`;
}

function formatScale(scale) {
  return `${scale < 0.1 ? (100 * scale).toFixed(1) : Math.round(100 * scale)} %`;
}

function setMode(mode, chosen = view.chosen) {
  for (const name of MODES) element(name).setAttribute("aria-pressed", name === mode);
  element("divider-field").hidden = mode !== "slider";
  element("factor-field").hidden = mode !== "difference";
  element("opacity-field").hidden = element("legend").hidden = mode !== "uncertainty";
  element("choice").hidden = !hasReference || mode === "uncertainty";
  [...element("choice").children].forEach((button) =>
    button.setAttribute("aria-pressed", button.dataset.chosen === chosen.join()),
  );
  view.setMode(mode, chosen);
}

function setFactor(factor) {
  view.factor = factor;
  element("amplification").textContent = `x ${formatFactor(factor)}`;
  element("factor").setAttribute("aria-valuetext", `times ${formatFactor(factor)}`);
  view.draw();
}

function setOpacity(opacity) {
  if (!view.overlay) return;
  view.overlay.opacity = opacity;
  view.draw();
}

async function decode(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

async function show(index) {
  current = index;
  const pair = content.pairs[index];
  element("name").textContent = pair.name;
  const figures = pair.figures.map(({ of, against, short }) => `${of} to ${against}: ${short}`);
  element("figures").textContent = figures.join(" · ") || "no figures, because the sizes differ";
  element("position").textContent = `${order.indexOf(index) + 1} of ${order.length}`;
  element("previous").disabled = order[0] === index;
  element("next").disabled = order[order.length - 1] === index;
  fillDetails(pair);
  const map = pair.uncertainty?.url ? pair.uncertainty : null;
  element("uncertainty").hidden = !map;
  if (map) fillLegend(map);
  else if (view.mode === "uncertainty") setMode("slider");
  view.setPair(pair.width, pair.height, []);
  delete document.body.dataset.ready;
  const isShown = pair.pictures.every(({ url }) => url);
  element("status").textContent = isShown ? "Loading the pictures …" : pair.notes[0];
  if (!isShown) return;
  try {
    const images = await Promise.all(pair.pictures.map(({ url }) => decode(url)));
    const layer = map && (await decode(map.url));
    if (current !== index) return;
    const labelled = images.map((image, i) => {
      const { role, name } = pair.pictures[i];
      return { image, role, label: `${role} · ${name}` };
    });
    const overlay = map && { map: new Overlay(layer, map), index: map.of, opacity: element("opacity").value / 100 };
    view.setPair(pair.width, pair.height, labelled, overlay);
    element("status").textContent = "";
    document.body.dataset.ready = index;
  } catch {
    if (current === index) element("status").textContent = "This browser cannot show the pictures.";
  }
}

function turn(steps) {
  const next = order[order.indexOf(current) + steps];
  if (next !== undefined) location.hash = `#${next + 1}`;
}

// ---------------------------------------------------------------------------------------------------------- the start

function route() {
  const number = Number(location.hash.slice(1));
  const isPair = Number.isInteger(number) && number >= 1 && number <= content.pairs.length;
  const showsPair = isPair || !content.isGallery;
  const wasShown = current;
  element("gallery").hidden = showsPair;
  element("viewer").hidden = !showsPair;
  if (showsPair) {
    show(isPair ? number - 1 : 0);
    return;
  }
  current = null;
  view.setPair(1, 1, []); // frees the pictures
  if (wasShown !== null) element(`card-${wasShown}`).focus();
}

const actions = {
  s: () => setMode("slider"),
  b: () => setMode("side"),
  d: () => setMode("difference"),
  u: () => !element("uncertainty").hidden && setMode("uncertainty"),
  i: () => toggleDetails(),
  "[": () => view.setDivider(view.divider - 0.05),
  "]": () => view.setDivider(view.divider + 0.05),
  "+": () => view.zoom(STEP),
  "=": () => view.zoom(STEP),
  "-": () => view.zoom(1 / STEP),
  1: () => view.original(),
  0: () => view.fit(),
  n: () => content.isGallery && turn(1),
  p: () => content.isGallery && turn(-1),
  Escape: () => content.isGallery && (location.hash = ""),
};
const arrows = {
  ArrowLeft: () => view.pan(ARROW, 0),
  ArrowRight: () => view.pan(-ARROW, 0),
  ArrowUp: () => view.pan(0, ARROW),
  ArrowDown: () => view.pan(0, -ARROW),
};

function press(event) {
  if (current === null || event.ctrlKey || event.metaKey || event.altKey) return;
  const isElsewhere = event.target.closest("input, select, aside") !== null; // which use the arrows themselves
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = actions[key] ?? (isElsewhere ? undefined : arrows[key]);
  if (!action) return;
  event.preventDefault();
  action();
}

function start() {
  document.title = content.title;
  for (const mode of MODES) element(mode).addEventListener("click", () => setMode(mode));
  if (hasReference) {
    const choices = [[0, 1, "A | B"], [0, 2, "A | Ref"], [1, 2, "B | Ref"]];
    for (const [left, right, label] of choices) {
      const button = make("button", label);
      button.dataset.chosen = `${left},${right}`;
      button.addEventListener("click", () => setMode(view.mode, [left, right]));
      element("choice").append(button);
    }
  }
  element("back").hidden = element("pager").hidden = !content.isGallery;
  element("info").addEventListener("click", () => toggleDetails());
  element("divider").addEventListener("input", () => view.setDivider(element("divider").value / 100));
  element("factor").value = Math.log2(view.factor);
  element("factor").addEventListener("input", () => setFactor(2 ** element("factor").value));
  element("opacity").value = 100 * (content.pairs.find((pair) => pair.uncertainty)?.uncertainty.opacity ?? 0);
  element("opacity").addEventListener("input", () => setOpacity(element("opacity").value / 100));
  element("smaller").addEventListener("click", () => view.zoom(1 / STEP));
  element("larger").addEventListener("click", () => view.zoom(STEP));
  element("original").addEventListener("click", () => view.original());
  element("fit").addEventListener("click", () => view.fit());
  element("previous").addEventListener("click", () => turn(-1));
  element("next").addEventListener("click", () => turn(1));
  window.addEventListener("keydown", press);
  window.addEventListener("hashchange", route);
  fillGallery();
  setFactor(view.factor);
  setMode("slider", [0, 1]);
  toggleDetails(window.innerWidth > 1100);
  route();
}

start();
