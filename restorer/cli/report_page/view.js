// The view: one or several panels that show the same part of the pictures at the same magnification.
"use strict";

class View {
  static MARGIN = 16; // free pixels around a picture that is shown whole
  static HANDLE = 24; // pixels of the screen around the line in which it can be dragged
  static WHEEL = 0.0016; // magnification, as a logarithm, for a pixel of scrolling
  static GAP = 4; // pixels between panels

  // hooks: onMove() after a change of the magnification, onDivider() after the line has been moved, onPoint(x, y) when
  // the pointer is over a point of the picture, in its pixels.
  constructor(canvas, hooks) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.hooks = hooks;
    this.mode = "slider"; // or "side", "difference" or "uncertainty"
    this.images = []; // [{image, label}]
    this.chosen = [0, 1]; // the two that the slider and the difference compare
    this.width = this.height = 1; // of the largest picture
    this.scale = 1; // pixels of the screen (in CSS) for one of the picture
    this.x = this.y = 0; // the point of the picture in the middle of each panel
    this.divider = 0.5; // where the line is, as a part of the width of the canvas
    this.factor = 5;
    this.difference = null;
    this.overlay = null; // {map, index of the result, opacity}
    this.isFitted = true;
    this.isDue = false;
    this.pointers = new Map(); // those that are down: id -> [x, y]
    this.dragged = null; // "divider" or "picture"
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event));
    canvas.addEventListener("dblclick", () => (this.isFitted ? this.original() : this.fit()));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("blur", () => canvas.classList.remove("pointed"));
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  setPair(width, height, images, overlay = null) {
    [this.width, this.height, this.images, this.overlay] = [width, height, images, overlay];
    this.difference = null;
    this.fit();
  }

  setMode(mode, chosen = this.chosen) {
    if (chosen !== this.chosen) this.difference = null;
    [this.mode, this.chosen] = [mode, chosen];
    if (this.isFitted) this.fit();
    else this.moved();
  }

  setDivider(divider) {
    this.divider = Math.min(Math.max(divider, 0), 1);
    this.hooks.onDivider();
    this.draw();
  }

  // ------------------------------------------------------------------------------------------------------- where

  resize() {
    const { canvas, ratio } = this;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (this.isFitted) this.fit();
    else this.moved();
  }

  // Returns the panels as [{index, x, y, width, height}]; they lie side by side, or one above the other on a tall screen.
  panels() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const whole = { index: 0, x: 0, y: 0, width, height };
    if (this.mode !== "side" || !this.images.length) return [whole];
    const [count, gap] = [this.images.length, View.GAP];
    const [across, down] = [(width - (count - 1) * gap) / count, (height - (count - 1) * gap) / count];
    const fits = (w, h) => Math.min(w / this.width, h / this.height);
    const isStacked = fits(width, down) > fits(across, height);
    return this.images.map((_, index) =>
      isStacked
        ? { index, x: 0, y: index * (down + gap), width, height: down }
        : { index, x: index * (across + gap), y: 0, width: across, height },
    );
  }

  fit() {
    const [{ width, height }] = this.panels();
    const margin = Math.min(View.MARGIN, width / 16, height / 16);
    this.scale = Math.min((width - 2 * margin) / this.width, (height - 2 * margin) / this.height);
    this.scale = Math.min(Math.max(this.scale, 1e-3), 8);
    [this.x, this.y] = [this.width / 2, this.height / 2];
    this.isFitted = true;
    this.moved();
  }

  // Shows one pixel of the picture as one of the screen.
  original() {
    this.zoom(1 / this.ratio / this.scale);
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.isFitted = false;
    this.moved();
  }

  // Magnifies around a point of the canvas, the middle of the panels if none is given.
  zoom(factor, x = null, y = null) {
    const scale = Math.min(Math.max(this.scale * factor, Math.min(0.02, this.scale)), 64);
    if (x !== null) {
      const [dx, dy] = this.fromMiddle(x, y);
      this.x += dx / this.scale - dx / scale;
      this.y += dy / this.scale - dy / scale;
    }
    this.scale = scale;
    this.isFitted = false;
    this.moved();
  }

  // Returns how far a point of the canvas is from the middle of its panel.
  fromMiddle(x, y) {
    const isIn = (panel) => x <= panel.x + panel.width && y <= panel.y + panel.height;
    const panels = this.panels();
    const panel = panels.find(isIn) ?? panels[panels.length - 1];
    return [x - panel.x - panel.width / 2, y - panel.y - panel.height / 2];
  }

  moved() {
    this.x = Math.min(Math.max(this.x, 0), this.width);
    this.y = Math.min(Math.max(this.y, 0), this.height);
    this.hooks.onMove();
    this.draw();
  }

  // ---------------------------------------------------------------------------------------------------- pointers

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  isOnDivider(x) {
    return this.mode === "slider" && Math.abs(x - this.divider * this.canvas.clientWidth) <= View.HANDLE;
  }

  down(event) {
    const { canvas } = this;
    canvas.classList.add("pointed"); // who points at the canvas needs no outline of it
    canvas.focus({ preventScroll: true });
    event.preventDefault();
    try {
      canvas.setPointerCapture(event.pointerId);
    } catch {
      // The pointer has gone already.
    }
    const [x, y] = this.place(event);
    this.pointers.set(event.pointerId, [x, y]);
    this.dragged = this.pointers.size === 1 && this.isOnDivider(x) ? "divider" : "picture";
  }

  move(event) {
    const [x, y] = this.place(event);
    const [dx, dy] = this.fromMiddle(x, y);
    this.hooks.onPoint(this.x + dx / this.scale, this.y + dy / this.scale);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.canvas.style.cursor = this.isOnDivider(x) ? "ew-resize" : "grab";
      return;
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.pointers.set(event.pointerId, [x, y]);
    if (this.dragged === "divider") {
      this.setDivider(x / this.canvas.clientWidth);
    } else if (!others.length) {
      this.canvas.style.cursor = "grabbing";
      this.pan(x - before[0], y - before[1]);
    } else if (others.length === 1) {
      const [[ox, oy]] = others;
      const distance = (px, py) => Math.max(Math.hypot(px - ox, py - oy), 1);
      this.pan((x - before[0]) / 2, (y - before[1]) / 2);
      this.zoom(distance(x, y) / distance(...before), (x + ox) / 2, (y + oy) / 2);
    }
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.dragged = null;
  }

  wheel(event) {
    event.preventDefault();
    const unit = [1, 16, 400][event.deltaMode] ?? 1;
    const speed = event.ctrlKey ? 5 : 1; // the pinch of a touchpad has small steps
    this.zoom(Math.exp(-View.WHEEL * unit * speed * event.deltaY), ...this.place(event));
  }

  // ----------------------------------------------------------------------------------------------------- drawing

  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { context, canvas, chosen, images, ratio } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!images.length) return;
    for (const panel of this.panels()) {
      if (this.mode === "side") this.drawPanel(panel, images[panel.index]);
      else if (this.mode === "difference") this.drawPanel(panel, this.differenceImage());
      else if (this.mode === "uncertainty") this.drawOverlay(panel);
      else {
        const line = Math.round(this.divider * panel.width * ratio) / ratio;
        this.drawPanel(panel, images[chosen[0]], 0, line);
        this.drawPanel(panel, images[chosen[1]], line, panel.width);
        this.drawLine(line * ratio);
      }
    }
  }

  drawOverlay(panel) {
    const { map, index, opacity } = this.overlay;
    const { image, label } = this.images[index];
    const over = { image: map.canvas, opacity };
    this.drawPanel(panel, { image, label: `${label} · uncertainty` }, 0, panel.width, over);
  }

  differenceImage() {
    const [a, b] = this.chosen.map((index) => this.images[index]);
    this.difference ??= new Difference([a.image, b.image]);
    const label = `${a.role} and ${b.role}, difference x ${formatFactor(this.factor)}`;
    return { image: this.difference.amplified(this.factor), label };
  }

  // Draws an image in the part of a panel between two columns, and over it another one {image, opacity}.
  drawPanel(panel, { image, label }, left = 0, right = panel.width, over = null) {
    const { context, ratio } = this;
    context.save();
    context.beginPath();
    const [x0, x1] = [panel.x + left, panel.x + right].map((x) => Math.round(x * ratio));
    const [y0, y1] = [panel.y, panel.y + panel.height].map((y) => Math.round(y * ratio));
    context.rect(x0, y0, x1 - x0, y1 - y0);
    context.clip();
    // Edges lie on whole pixels of the screen, so that all panels show the same.
    const edge = (start, size, middle, point) => Math.round((start + size / 2 + (point - middle) * this.scale) * ratio);
    const x = edge(panel.x, panel.width, this.x, 0);
    const y = edge(panel.y, panel.height, this.y, 0);
    const width = edge(panel.x, panel.width, this.x, this.width) - x;
    const height = edge(panel.y, panel.height, this.y, this.height) - y;
    this.drawCheckers(x, y, width, height);
    context.imageSmoothingEnabled = width < (image.naturalWidth ?? image.width);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, x, y, width, height);
    if (over) {
      context.imageSmoothingEnabled = width < over.image.width;
      context.globalAlpha = over.opacity;
      context.drawImage(over.image, x, y, width, height);
      context.globalAlpha = 1;
    }
    this.drawLabel(label, x0, y0, x1 - x0, left > 0);
    context.restore();
  }

  // The ground on which transparent pictures are shown.
  drawCheckers(x, y, width, height) {
    const side = Math.round(10 * this.ratio);
    if (!this.pattern || this.patternSide !== side) {
      const tile = Object.assign(document.createElement("canvas"), { width: 2 * side, height: 2 * side });
      const context = tile.getContext("2d");
      context.fillStyle = "#ccc";
      context.fillRect(0, 0, 2 * side, 2 * side);
      context.fillStyle = "#999";
      context.fillRect(0, 0, side, side);
      context.fillRect(side, side, side, side);
      [this.pattern, this.patternSide] = [this.context.createPattern(tile, "repeat"), side];
    }
    this.context.fillStyle = this.pattern;
    this.context.fillRect(x, y, width, height);
  }

  // Writes the name of a picture into a corner of its part of the screen.
  drawLabel(label, x, y, width, isRight) {
    const { context, ratio } = this;
    const pad = 8 * ratio;
    context.font = `500 ${13 * ratio}px system-ui, sans-serif`;
    const space = width - 4 * pad;
    let text = label;
    while (text.length > 1 && context.measureText(text).width > space) text = `${text.slice(0, -2)}…`;
    if (space < 12 * ratio) return;
    const length = context.measureText(text).width;
    const left = isRight ? x + width - length - 3 * pad : x + pad;
    context.fillStyle = "rgb(0 0 0 / 62%)";
    context.beginPath();
    context.roundRect(left, y + pad, length + 2 * pad, 24 * ratio, 6 * ratio);
    context.fill();
    context.fillStyle = "#fff";
    context.textBaseline = "middle";
    context.fillText(text, left + pad, y + pad + 12.5 * ratio);
  }

  drawLine(x) {
    const { context, canvas, ratio } = this;
    const line = Math.max(2, Math.round(2 * ratio));
    const middle = canvas.height / 2;
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fillRect(x - line, 0, 2 * line, canvas.height);
    context.fillStyle = "#fff";
    context.fillRect(x - line / 2, 0, line, canvas.height);
    context.beginPath();
    context.arc(x, middle, 15 * ratio, 0, 7);
    context.shadowColor = "rgb(0 0 0 / 60%)";
    context.shadowBlur = 6 * ratio;
    context.fill();
    context.shadowBlur = 0;
    context.strokeStyle = "#222";
    context.lineWidth = 2 * ratio;
    for (const side of [-1, 1]) {
      context.beginPath();
      context.moveTo(x + side * 4 * ratio, middle - 5 * ratio);
      context.lineTo(x + side * 9 * ratio, middle);
      context.lineTo(x + side * 4 * ratio, middle + 5 * ratio);
      context.stroke();
    }
  }
}

function formatFactor(factor) {
  return factor < 10 ? String(Math.round(10 * factor) / 10) : String(Math.round(factor));
}
