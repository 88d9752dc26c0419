// The tools: what fingers, pens, mice and keys do on the canvas.
"use strict";

const TOOLS = ["brush", "eraser", "rectangle", "lasso", "hand"];

class Tools {
  static HANDLE = 24; // pixels of the screen around the divider in which it can be dragged
  static WHEEL = 0.0016; // magnification, as a logarithm, for a pixel of scrolling

  // hooks: onTool(name), onSize(size), onStep() after each step, onDivider(x) while the divider is dragged.
  constructor(view, mask, hooks) {
    this.view = view;
    this.mask = mask;
    this.hooks = hooks;
    this.tool = "brush";
    this.size = 24;
    this.maxSize = Math.max(16, Math.min(1000, Math.max(mask.width, mask.height)));
    this.stroke = null; // the step in progress
    this.pointers = new Map(); // those that are down: id -> [x, y]
    this.drag = null; // the id of the pointer that moves the picture or the divider
    this.sawPen = false; // with a pen in use, a finger or a palm does not draw
    this.holdsSpace = false;
    const canvas = view.canvas;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event, true));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("blur", () => canvas.classList.remove("pointed"));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  get isComparing() {
    return this.view.divider !== null;
  }

  select(tool) {
    this.cancel();
    this.tool = tool;
    this.hooks.onTool(tool);
    this.updateCursor();
  }

  setSize(size) {
    this.size = Math.min(Math.max(Math.round(size) || 1, 1), this.maxSize);
    this.hooks.onSize(this.size);
    this.updateCursor();
  }

  // ---------------------------------------------------------------------------------------------------- pointers

  place(event) {
    const box = this.view.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    const { view } = this;
    view.canvas.classList.add("pointed"); // who points at the canvas needs no outline of it
    view.canvas.focus({ preventScroll: true });
    event.preventDefault();
    try {
      view.canvas.setPointerCapture(event.pointerId);
    } catch {
      // The pointer has gone already.
    }
    const [x, y] = this.place(event);
    this.sawPen ||= event.pointerType === "pen";
    this.pointers.set(event.pointerId, [x, y]);
    if (this.pointers.size === 2) {
      this.cancel(); // a second finger: the first one did not mean to draw
      this.drag = null;
      return;
    }
    if (this.pointers.size > 2) return;
    const moves = event.button === 1 || this.tool === "hand" || this.holdsSpace || this.isComparing;
    if (this.isComparing && Math.abs(view.x + view.divider * view.scale - x) <= Tools.HANDLE && event.button !== 1) {
      this.drag = { id: event.pointerId, kind: "divider" };
    } else if (moves || (this.sawPen && event.pointerType === "touch")) {
      this.drag = { id: event.pointerId, kind: "picture" };
    } else {
      const erases = event.button === 2 || event.button === 5 || event.altKey;
      this.begin(...view.toPicture(x, y), erases);
    }
    this.updateCursor(event, x, y);
  }

  move(event) {
    const [x, y] = this.place(event);
    const last = this.pointers.get(event.pointerId);
    if (!last) {
      this.hover(event.pointerType === "touch" ? null : [x, y]);
      return;
    }
    if (this.pointers.size === 2) {
      this.pinch(event.pointerId, x, y);
    } else if (this.drag?.id === event.pointerId) {
      if (this.drag.kind === "picture") {
        this.view.isFitted = false;
        this.view.pan(x - last[0], y - last[1]);
      } else {
        this.hooks.onDivider(this.view.toPicture(x, y)[0]);
      }
    } else if (this.stroke) {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) this.extend(...this.view.toPicture(...this.place(each)));
      this.mask.show();
    }
    this.pointers.set(event.pointerId, [x, y]);
    this.updateCursor(event, x, y);
  }

  up(event, isCancelled = false) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.drag?.id === event.pointerId) this.drag = null;
    else if (this.stroke && !this.pointers.size) isCancelled ? this.cancel() : this.end();
    if (event.pointerType === "touch") this.hover(null);
  }

  hover(point) {
    const { view } = this;
    const draws = ["brush", "eraser"].includes(this.tool) && !this.holdsSpace;
    view.cursor = null;
    if (point && draws) {
      const [x, y] = view.toPicture(...point);
      view.cursor = { x, y, size: this.size };
    }
    this.lastPoint = point;
    view.draw();
  }

  updateCursor(event, x, y) {
    if (event) this.hover(event.pointerType === "touch" ? null : [x, y]);
    else this.hover(this.lastPoint ?? null);
    const isDrawing = ["brush", "eraser"].includes(this.tool);
    const moves = this.tool === "hand" || this.holdsSpace || this.isComparing;
    this.view.canvas.style.cursor = moves ? (this.drag ? "grabbing" : "grab") : isDrawing ? "none" : "crosshair";
  }

  // Two fingers: the points of the picture under them follow.
  pinch(id, x, y) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, point]) => point);
    const before = this.pointers.get(id);
    const distance = (a, b) => Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1);
    const middle = [(before[0] + other[0]) / 2, (before[1] + other[1]) / 2];
    this.view.zoom(distance([x, y], other) / distance(before, other), ...middle);
    this.view.pan((x - before[0]) / 2, (y - before[1]) / 2);
  }

  wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1;
    const [x, y] = this.place(event);
    if (event.shiftKey) {
      this.view.isFitted = false;
      this.view.pan(-(event.deltaX || event.deltaY) * unit, 0);
    } else {
      // A pinch on a touchpad arrives as small steps with the control key.
      this.view.zoom(Math.exp(-event.deltaY * unit * Tools.WHEEL * (event.ctrlKey ? 6 : 1)), x, y);
    }
    this.updateCursor(event, x, y);
  }

  // ------------------------------------------------------------------------------------------------------- steps

  begin(x, y, erases = false) {
    if (this.stroke || this.isComparing) return;
    const value = this.tool === "eraser" || erases ? 0 : 1;
    this.stroke = { tool: this.tool, value, points: [[x, y]] };
    this.extend(x, y);
    this.mask.show();
  }

  extend(x, y) {
    const { view, mask, stroke } = this;
    const last = stroke.points.at(-1);
    if (stroke.tool === "rectangle") {
      stroke.points[1] = [x, y];
      const [[ax, ay]] = stroke.points;
      view.sketch = [[ax, ay], [x, ay], [x, y], [ax, y]];
    } else if (stroke.tool === "lasso") {
      stroke.points.push([x, y]);
      view.sketch = stroke.points;
    } else {
      mask.line(...last, x, y, this.size, stroke.value);
      stroke.points = [[x, y]];
    }
    view.draw();
  }

  end() {
    const { stroke, mask, view } = this;
    const [[ax, ay]] = stroke.points;
    if (stroke.tool === "rectangle") mask.rectangle(ax, ay, ...stroke.points.at(-1), stroke.value);
    if (stroke.tool === "lasso") mask.polygon(stroke.points, stroke.value);
    this.stroke = view.sketch = null;
    mask.commit();
    this.hooks.onStep();
    view.draw();
  }

  cancel() {
    if (!this.stroke) return false;
    this.stroke = this.view.sketch = null;
    this.mask.cancel();
    this.view.draw();
    return true;
  }

  // ---------------------------------------------------------------------------------------------------- keyboard

  // Shows or hides a cursor that the arrow keys move, for drawing without a pointer.
  toggleCross() {
    const { view, mask } = this;
    if (view.cross) {
      this.cancel();
      view.cross = null;
    } else {
      const [x, y] = view.toPicture(view.canvas.clientWidth / 2, view.canvas.clientHeight / 2);
      const within = (value, side) => Math.min(Math.max(Math.floor(value), 0), side - 1) + 0.5;
      view.cross = [within(x, mask.width), within(y, mask.height)];
    }
    this.followCross();
    return view.cross !== null;
  }

  moveCross(dx, dy, isFine) {
    const { view, mask } = this;
    const step = isFine ? 1 : Math.max(1, Math.round(this.size / 2));
    view.cross[0] = Math.min(Math.max(view.cross[0] + dx * step, 0.5), mask.width - 0.5);
    view.cross[1] = Math.min(Math.max(view.cross[1] + dy * step, 0.5), mask.height - 0.5);
    if (this.stroke) {
      this.extend(...view.cross);
      mask.show();
    }
    this.followCross();
  }

  // Begins a step at the cursor, or ends it there.
  pressCross() {
    if (this.stroke) this.end();
    else if (this.tool !== "hand") this.begin(...this.view.cross);
    return this.stroke !== null;
  }

  followCross() {
    const { view } = this;
    view.cursor = null;
    if (view.cross && ["brush", "eraser"].includes(this.tool)) {
      view.cursor = { x: view.cross[0], y: view.cross[1], size: this.size };
    }
    if (view.cross) {
      const [x, y] = [view.x + view.cross[0] * view.scale, view.y + view.cross[1] * view.scale];
      const { clientWidth, clientHeight } = view.canvas;
      const dx = Math.min(Math.max(x, 40), clientWidth - 40) - x;
      const dy = Math.min(Math.max(y, 40), clientHeight - 40) - y;
      if (dx || dy) view.pan(dx, dy);
    }
    view.draw();
  }
}
