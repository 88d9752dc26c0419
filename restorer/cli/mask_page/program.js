// What the page asks of the program: saving, filling, and how far the filling is.
"use strict";

class Program {
  // hooks: onProgress(progress), onLost() when the program does not answer, onFound() when it does again.
  constructor(hooks) {
    this.hooks = hooks;
    this.isEnded = false;
  }

  async get(name) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name} cannot be loaded`);
    return answer;
  }

  // Sends a request, and returns the answer. An error holds what the program says, and `exists` if a file is in the way.
  async post(name, body) {
    let answer;
    try {
      answer = await fetch(name, { method: "POST", body });
    } catch {
      this.hooks.onLost();
      throw new Error("The program does not answer. Is it still running in the terminal?");
    }
    const content = await answer.json();
    if (answer.ok) return content;
    const text = [content.error, content.hint].filter(Boolean).join(": ");
    throw Object.assign(new Error(`${text.charAt(0).toUpperCase()}${text.slice(1)}.`), { exists: content.exists });
  }

  // Listens to the progress. The connection also tells the program that the page is open.
  listen() {
    addEventListener("pagehide", () => this.end());
    addEventListener("pageshow", (event) => event.persisted && location.reload());
    this.connect();
  }

  connect() {
    const events = new EventSource("events");
    events.onopen = () => this.hooks.onFound();
    events.onmessage = (event) => this.hooks.onProgress(JSON.parse(event.data));
    events.onerror = () => {
      if (this.isEnded) return;
      this.hooks.onLost();
      // The browser itself tries again only after some errors.
      if (events.readyState === EventSource.CLOSED) setTimeout(() => this.isEnded || this.connect(), 1000);
    };
    this.events = events;
  }

  // Says goodbye, so that the program stops soon unless the page is loaded again.
  end() {
    this.isEnded = true;
    this.events.close();
    navigator.sendBeacon("goodbye");
  }
}

// Loads an image that the program serves.
async function loadImage(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

class Filling {
  // elements: those of the panel, by name. hooks: onCompare(isOn), say(text), confirm(text, action).
  constructor(view, mask, program, elements, hooks) {
    Object.assign(this, { view, mask, program, elements, hooks });
    this.seed = 0;
    this.state = "idle";
    this.shown = 0; // number of the preview that is shown
    this.run = 0; // number of the run that is shown; 0 for none
    elements.stop.onclick = () => program.post("stop").catch((error) => hooks.say(error.message));
    elements.again.onclick = () => this.start(this.seed + 1);
    elements.keep.onclick = () => this.save("result");
    elements.back.onclick = () => this.leave();
    elements.divider.oninput = () => this.moveDivider(elements.divider.valueAsNumber);
  }

  get isOpen() {
    return this.view.divider !== null;
  }

  async start(seed) {
    if (!this.mask.marked) {
      this.hooks.say("Mark what is to be filled first.");
      return;
    }
    this.seed = seed;
    this.view.result = null;
    this.run = 0;
    try {
      this.run = (await this.program.post(`fill?seed=${seed}`, this.mask.toBits())).run;
      this.show(this.last);
    } catch (error) {
      this.hooks.say(error.message);
    }
  }

  // Shows what the program says about the filling.
  async show(progress) {
    const { elements } = this;
    this.last = progress; // it may come before the answer that names the run
    if (!progress.run || progress.run !== this.run) return; // a run of before the page was loaded, or one that was left
    const isBusy = ["loading", "running"].includes(progress.state);
    this.state = progress.state;
    elements.bar.hidden = elements.stop.hidden = !isBusy;
    elements.keep.hidden = elements.again.hidden = progress.state !== "done";
    this.seed = progress.seed;
    elements.text.textContent = this.describe(progress);
    elements.text.hidden = progress.state === "done";
    if (progress.total) {
      elements.bar.max = progress.total;
      elements.bar.value = progress.done;
    } else {
      elements.bar.removeAttribute("value");
    }
    if (progress.state === "failed" || progress.state === "stopped") {
      this.hooks.say(progress.state === "failed" ? `The filling failed: ${progress.message}.` : "The filling was stopped.");
      this.leave();
      return;
    }
    if (isBusy && !this.isOpen) this.open(progress.window);
    elements.panel.hidden = false;
    if (progress.preview > this.shown && progress.window) {
      this.shown = progress.preview;
      const image = await loadImage(`preview?${progress.preview}`).catch(() => null);
      if (image && this.shown === progress.preview && this.isOpen) {
        this.view.result = { image, window: progress.window };
        this.view.draw();
      }
    }
    if (progress.state === "done" && this.announced !== progress.preview) {
      this.announced = progress.preview;
      this.hooks.say("Filled. Move the line to compare before and after.");
    }
  }

  describe({ state, done, total }) {
    if (state === "loading") return "Loading the model …";
    return state === "running" ? `Step ${Math.min(Math.floor(done) + 1, total)} of ${total}` : "";
  }

  // Begins the comparison, with the line through the middle of what is filled.
  open() {
    const { mask, elements } = this;
    elements.divider.max = mask.width;
    const rows = mask.data;
    let [low, high] = [mask.width, 0];
    for (let y = 0; y < mask.height; y++) {
      const first = rows.indexOf(1, y * mask.width);
      if (first < 0) break;
      y = Math.floor(first / mask.width);
      const row = rows.subarray(y * mask.width, (y + 1) * mask.width);
      [low, high] = [Math.min(low, row.indexOf(1)), Math.max(high, row.lastIndexOf(1) + 1)];
    }
    this.moveDivider((low + high) / 2);
    elements.panel.hidden = false;
    this.hooks.onCompare(true);
  }

  moveDivider(x) {
    const { view, mask, elements } = this;
    view.divider = Math.min(Math.max(x, 0), mask.width);
    elements.divider.value = view.divider;
    view.draw();
  }

  // Goes back to the mask. A filling in progress is stopped.
  leave() {
    if (["loading", "running"].includes(this.state)) this.program.post("stop").catch(() => {});
    this.run = 0;
    this.view.divider = this.view.result = null;
    this.elements.panel.hidden = true;
    this.hooks.onCompare(false);
    this.view.draw();
  }

  async save(name) {
    try {
      const { path } = await this.program.post(name);
      this.hooks.onKept(path);
    } catch (error) {
      if (!error.exists) this.hooks.say(error.message);
      else this.hooks.confirm(`${error.message} Replace it?`, "Replace", () => this.save("result?overwrite"));
    }
  }
}
