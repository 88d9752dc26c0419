// The page: buttons, keys, messages, and the beginning and the end.
"use strict";

const element = (id) => document.getElementById(id);
const isApple = /Mac|iPhone|iPad/.test(navigator.platform);
const control = isApple ? "⌘" : "Ctrl";

// What the keys do: [label, keys as they are shown]; the buttons take their titles from here.
const KEYS = {
  brush: ["Brush", "B"],
  eraser: ["Eraser", "E"],
  rectangle: ["Rectangle", "R"],
  lasso: ["Lasso", "L"],
  hand: ["Move the picture", "H"],
  undo: ["Undo", `${control}+Z`],
  redo: ["Redo", `${control}+Shift+Z`],
  invert: ["Invert the mask", "I"],
  clear: ["Clear the mask", "Delete"],
  smaller: ["Zoom out", "−"],
  larger: ["Zoom in", "+"],
  scale: ["Original size", "1"],
  fit: ["Show the whole picture", "0"],
  shows: ["Show the mask", "M"],
  fill: ["Fill now", "F"],
  save: ["Save the mask", `${control}+S`],
  done: ["Save and finish", `${control}+Enter`],
  help: ["Keys and gestures", "?"],
};
const GESTURES = [
  ["Smaller or larger brush", "[", "]"],
  ["Next colour of the overlay", "C"],
  ["Move the picture", "arrows", "Space + drag", "two fingers"],
  ["Zoom", "wheel", "pinch"],
  ["Erase with any tool", "right button", "Alt + drag"],
  ["Keyboard cursor on or off", "K"],
  ["Move it, or by one pixel", "arrows", "Shift + arrows"],
  ["Begin or end a stroke there", "Enter"],
  ["Cancel a stroke, or go back", "Esc"],
];
const COLOURS = ["#ff2d55", "#00d26a", "#2f8cff", "#ffd60a"];

function say(text) {
  const status = element("status");
  status.textContent = text;
  status.classList.remove("past");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => status.classList.add("past"), Math.max(3500, 70 * text.length));
}

// Asks a question, and acts if the answer is yes.
function confirmThen(question, label, action) {
  const dialog = element("asking");
  element("question").textContent = question;
  element("yes").textContent = label;
  dialog.returnValue = "no";
  dialog.onclose = () => dialog.returnValue === "yes" && action();
  dialog.showModal();
}

function showKeys() {
  const rows = [...Object.values(KEYS).map(([label, keys]) => [label, keys]), ...GESTURES];
  for (const [label, ...keys] of rows) {
    const row = document.createElement("div");
    const names = document.createElement("span");
    keys.forEach((key, i) => {
      if (i) names.append(" ");
      names.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    });
    row.append(Object.assign(document.createElement("span"), { textContent: label }), names);
    element("keys").append(row);
  }
  for (const [id, [label, keys]] of Object.entries(KEYS)) {
    element(id).title = `${label} (${keys})`;
    if (!element(id).textContent.trim() || id === "help") element(id).setAttribute("aria-label", label);
  }
}

function toRgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

// Returns the colour of the overlay that is farthest from those of the picture.
function mostDistinct(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 16, height: 16 });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 16, 16);
  const { data } = context.getImageData(0, 0, 16, 16);
  const distance = (hex) => {
    const colour = toRgb(hex);
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) sum += Math.hypot(...colour.map((value, j) => value - data[i + j]));
    return sum;
  };
  return COLOURS.reduce((best, hex) => (distance(hex) > 1.15 * distance(best) ? hex : best));
}

async function start() {
  showKeys();
  const view = new View(element("canvas"));
  const program = new Program({
    onProgress: (progress) => filling?.show(progress),
    onLost: () => (lost ??= setTimeout(showLost, 6000)),
    onFound: () => (lost = clearTimeout(lost)),
  });
  let [lost, filling] = [undefined, null];
  const [state, image] = await Promise.all([program.get("state").then((answer) => answer.json()), loadImage("picture")]);
  const mask = new Mask(state.width, state.height, (rectangle) => view.updateTiles(rectangle));
  view.setPicture(image, mask);
  mask.fromBits(new Uint8Array(await (await program.get("mask")).arrayBuffer()));
  let savedVersion = state.is_saved ? mask.version : mask.marked ? -1 : mask.version;
  document.title = `${state.picture} – mask`;
  element("name").textContent = state.picture;
  element("name").title = state.picture;
  element("loading").hidden = true;

  const tools = new Tools(view, mask, {
    onTool: (tool) => {
      if (filling?.isOpen) filling.leave();
      for (const name of TOOLS) element(name).setAttribute("aria-pressed", String(name === tool));
      const hasSize = tool === "brush" || tool === "eraser";
      for (const id of ["slider", "size"]) element(id).disabled = !hasSize;
    },
    onSize: (size) => {
      element("size").value = size;
      element("slider").value = 100 * (Math.log(size) / Math.log(tools.maxSize));
    },
    onStep: showFacts,
    onDivider: (x) => filling.moveDivider(x),
  });
  const names = ["panel", "text", "bar", "divider", "stop", "again", "keep", "back"];
  const elements = Object.fromEntries(names.map((name) => [name, element(name)]));
  filling = new Filling(view, mask, program, elements, {
    say,
    confirm: confirmThen,
    onCompare: () => {
      tools.updateCursor();
      showFacts();
    },
    onKept: (path) => {
      savedVersion = mask.version; // the mask is saved with the result
      state.is_saved = true;
      showFacts();
      say(`Saved as ${path}.`);
    },
  });
  program.listen();

  function showFacts() {
    const percent = (100 * mask.marked) / (mask.width * mask.height);
    const share = percent === 0 || percent >= 0.1 ? percent.toFixed(1) : percent.toPrecision(1);
    element("facts").textContent = `${mask.width} × ${mask.height} · ${share} % marked`;
    element("undo").disabled = !mask.undoSteps.length;
    element("redo").disabled = !mask.redoSteps.length;
    element("save").disabled = mask.version === savedVersion && (state.is_saved || !mask.marked);
    element("fill").disabled = !mask.marked || filling.isOpen;
    element("clear").disabled = !mask.marked;
  }

  function showScale() {
    element("scale").textContent = `${Math.round(100 * view.scale * (window.devicePixelRatio || 1))} %`;
  }

  // Runs an action that changes the whole mask, as one step.
  function change(action) {
    if (filling.isOpen) filling.leave();
    tools.cancel();
    action();
    mask.commit();
    showFacts();
  }

  async function save(name) {
    const version = mask.version;
    const { path } = await program.post(name, mask.toBits());
    savedVersion = version;
    state.is_saved = true;
    showFacts();
    return path;
  }

  async function finish() {
    try {
      const path = await save("done");
      program.isEnded = true;
      program.events.close();
      end("The mask is saved", `It is ${path}. You can close this page.`);
    } catch (error) {
      say(error.message);
    }
  }

  function end(title, text) {
    clearTimeout(lost);
    element("ended-title").textContent = title;
    element("ended-text").textContent = text;
    element("ended").hidden = false;
    for (const part of document.querySelectorAll("header, nav, main, footer")) part.inert = true;
    element("ended-title").focus();
  }

  // The program has ended without this page: what was drawn can still be downloaded.
  function showLost() {
    const isUnsaved = mask.version !== savedVersion;
    element("download").hidden = !isUnsaved;
    end("The program has ended", isUnsaved ? "The last changes of the mask are not saved." : "You can close this page.");
  }

  function download() {
    const canvas = Object.assign(document.createElement("canvas"), { width: mask.width, height: mask.height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(mask.width, mask.height);
    const words = new Uint32Array(pixels.data.buffer);
    const [black, white] = new Uint32Array(new Uint8Array([0, 0, 0, 255, 255, 255, 255, 255]).buffer);
    mask.data.forEach((value, i) => (words[i] = value ? white : black));
    context.putImageData(pixels, 0, 0);
    canvas.toBlob((blob) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: state.mask });
      link.click();
      savedVersion = mask.version;
    });
  }

  const actions = {
    undo: () => change(() => mask.undo()),
    redo: () => change(() => mask.redo()),
    invert: () => change(() => mask.invert()),
    clear: () => change(() => mask.clear()),
    smaller: () => view.zoom(1 / 1.4),
    larger: () => view.zoom(1.4),
    scale: () => view.zoom(1 / (window.devicePixelRatio || 1) / view.scale),
    fit: () => view.fit(),
    shows: () => {
      view.showsMask = !view.showsMask;
      element("shows").setAttribute("aria-pressed", String(view.showsMask));
      view.draw();
    },
    fill: () => filling.start(state.seed),
    save: () =>
      save("save").then(
        (path) => say(`Saved as ${path}.`),
        (error) => say(error.message),
      ),
    done: () => (mask.marked ? finish() : confirmThen("Nothing is marked. Save an empty mask?", "Save", finish)),
    help: () => element("helping").showModal(),
    download,
  };
  for (const tool of TOOLS) actions[tool] = () => tools.select(tool);
  for (const [id, action] of Object.entries(actions)) {
    element(id).addEventListener("click", (event) => {
      action();
      // After a click the keys belong to the canvas again, so that the space bar does not press the button.
      if (event.detail && !document.querySelector("dialog[open]")) view.canvas.focus({ preventScroll: true });
    });
  }
  element("size").onchange = () => tools.setSize(element("size").valueAsNumber);
  element("slider").oninput = () => tools.setSize(tools.maxSize ** (element("slider").valueAsNumber / 100));
  element("opacity").oninput = () => {
    view.opacity = element("opacity").valueAsNumber / 100;
    view.draw();
  };
  const setColour = (hex) => {
    element("colour").value = hex;
    view.setColour(toRgb(hex));
  };
  element("colour").oninput = () => setColour(element("colour").value);

  const byKey = { b: "brush", e: "eraser", r: "rectangle", l: "lasso", h: "hand", i: "invert", f: "fill", m: "shows" };
  Object.assign(byKey, { "+": "larger", "=": "larger", "-": "smaller", "−": "smaller", 0: "fit", 1: "scale", "?": "help" });
  Object.assign(byKey, { Delete: "clear", Backspace: "clear" });
  const withControl = { z: "undo", y: "redo", s: "save", Enter: "done" };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function press(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (document.querySelector("dialog[open]") || !element("ended").hidden) return false;
    if (event.ctrlKey || event.metaKey) {
      const name = key === "z" && event.shiftKey ? "redo" : withControl[key];
      if (!name || event.altKey) return false;
      if (!element(name).disabled) actions[name]();
      return true;
    }
    if (event.altKey || (event.target.matches("input") && key !== "Escape")) return false;
    const isOnButton = event.target.matches("button");
    if (key === " " && !isOnButton) {
      tools.holdsSpace = true;
      tools.updateCursor();
    } else if (key === "Escape") {
      if (event.target.matches("input")) view.canvas.focus();
      else if (tools.cancel()) say("The stroke was cancelled.");
      else if (filling.isOpen) filling.leave();
      else if (view.cross) tools.toggleCross();
      else return false;
    } else if (key === "Enter" && view.cross && !isOnButton) {
      tools.pressCross();
    } else if (arrows[key]) {
      const [dx, dy] = arrows[key];
      if (view.cross && !filling.isOpen) {
        tools.moveCross(dx, dy, event.shiftKey);
      } else {
        view.isFitted = false;
        view.pan(-60 * dx, -60 * dy);
      }
    } else if (key === "k") {
      if (filling.isOpen) filling.leave();
      say(tools.toggleCross() ? "The arrow keys move the cursor, and Enter begins and ends a stroke." : "The keyboard cursor is off.");
      view.canvas.focus({ preventScroll: true });
    } else if (key === "[" || key === "]") {
      const step = Math.max(1, Math.round(tools.size / 8));
      tools.setSize(tools.size + (key === "]" ? step : -step));
      if (view.cross) tools.followCross();
    } else if (key === "c") {
      setColour(COLOURS[(COLOURS.indexOf(element("colour").value) + 1) % COLOURS.length]);
    } else if (byKey[key]) {
      if (!element(byKey[key]).disabled) actions[byKey[key]]();
    } else {
      return false;
    }
    return true;
  }

  addEventListener("keydown", (event) => press(event) && event.preventDefault());
  const releaseSpace = () => {
    tools.holdsSpace = false;
    tools.updateCursor();
  };
  addEventListener("keyup", (event) => event.key === " " && releaseSpace());
  addEventListener("blur", releaseSpace);
  addEventListener("beforeunload", (event) => {
    if (mask.version !== savedVersion && element("ended").hidden) event.preventDefault();
  });
  view.onMove = showScale;
  setColour(mostDistinct(image));
  element("opacity").value = 100 * view.opacity;
  tools.select("brush");
  tools.setSize(Math.max(3, Math.min(mask.width, mask.height) / 25));
  showFacts();
  showScale();
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  element("loading").textContent = `The page cannot be shown. ${error.message}`;
});
