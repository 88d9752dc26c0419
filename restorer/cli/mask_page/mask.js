// The mask: one byte per pixel, exact shapes without soft edges, and steps that can be undone.
"use strict";

class Mask {
  static HISTORY_BYTES = 256 * 2 ** 20;
  static EDGE = 1e-9; // what rounding may add to a distance

  // onChange is called with every rectangle [left, top, right, bottom) whose pixels may have changed.
  constructor(width, height, onChange) {
    this.width = width;
    this.height = height;
    this.onChange = onChange;
    this.data = new Uint8Array(width * height);
    this.committed = new Uint8Array(width * height); // the state before the step in progress
    this.marked = 0; // pixels, after the last step
    this.version = 0;
    this.undoSteps = [];
    this.redoSteps = [];
    this.changed = null; // the rectangle of the step in progress
    this.fresh = null; // the part of it that has not been shown
  }

  // ----------------------------------------------------------------------------------------------------- shapes

  // A pixel is inside a shape if its centre is. The ends of a line are moved onto the centre of a pixel for odd sizes,
  // and onto a corner for even ones, so that every dot of one size has the same shape.
  static snap(value, size) {
    return size % 2 ? Math.floor(value) + 0.5 : Math.round(value);
  }

  // Draws a line with round ends, of a whole width in pixels.
  line(ax, ay, bx, by, size, value) {
    const [x0, y0, x1, y1] = [ax, ay, bx, by].map((v) => Mask.snap(v, size));
    const radius = size / 2 + Mask.EDGE;
    const length = Math.hypot(x1 - x0, y1 - y0);
    const [ux, uy] = length ? [(x1 - x0) / length, (y1 - y0) / length] : [0, 0];
    const top = Math.max(0, Math.ceil(Math.min(y0, y1) - radius - 0.5));
    const bottom = Math.min(this.height - 1, Math.floor(Math.max(y0, y1) + radius - 0.5));
    for (let row = top; row <= bottom; row++) {
      const y = row + 0.5;
      let [low, high] = [Infinity, -Infinity];
      for (const [cx, cy] of [[x0, y0], [x1, y1]]) {
        const reach = radius ** 2 - (y - cy) ** 2;
        if (reach >= 0) {
          low = Math.min(low, cx - Math.sqrt(reach));
          high = Math.max(high, cx + Math.sqrt(reach));
        }
      }
      if (length) {
        const [left, right] = Mask.crossBand(x0, y0, ux, uy, length, radius, y);
        if (left <= right) [low, high] = [Math.min(low, left), Math.max(high, right)];
      }
      this.fillRow(row, Math.ceil(low - 0.5), Math.floor(high - 0.5), value);
    }
  }

  // Returns where a row at height y crosses the rectangle along a line: beside the line by at most a radius, and between
  // its ends.
  static crossBand(x0, y0, ux, uy, length, radius, y) {
    let [low, high] = [-Infinity, Infinity];
    const within = (slope, offset, from, to) => {
      if (Math.abs(slope) < 1e-12) {
        if (offset < from || offset > to) [low, high] = [Infinity, -Infinity];
        return;
      }
      const ends = [(from - offset) / slope, (to - offset) / slope].sort((a, b) => a - b);
      [low, high] = [Math.max(low, ends[0]), Math.min(high, ends[1])];
    };
    within(uy, -(y - y0) * ux, -radius, radius);
    within(ux, (y - y0) * uy, 0, length);
    return [x0 + low, x0 + high];
  }

  // Fills a rectangle that holds the pixels at both corners.
  rectangle(ax, ay, bx, by, value) {
    const [left, right] = [ax, bx].map(Math.floor).sort((a, b) => a - b);
    const [top, bottom] = [ay, by].map(Math.floor).sort((a, b) => a - b);
    for (let row = Math.max(0, top); row <= Math.min(this.height - 1, bottom); row++) {
      this.fillRow(row, left, right, value);
    }
  }

  // Fills a polygon, also where it winds around a pixel several times.
  polygon(points, value) {
    const ys = points.map((p) => p[1]);
    const top = Math.max(0, Math.floor(Math.min(...ys)));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(...ys)));
    for (let row = top; row <= bottom; row++) {
      const y = row + 0.5;
      const crossings = [];
      points.forEach(([ax, ay], i) => {
        const [bx, by] = points[(i + 1) % points.length];
        if (ay <= y !== by <= y) crossings.push([ax + ((y - ay) / (by - ay)) * (bx - ax), by > ay ? 1 : -1]);
      });
      crossings.sort((a, b) => a[0] - b[0]);
      let winding = 0;
      crossings.forEach(([x, direction], i) => {
        if (winding) this.fillRow(row, Math.ceil(crossings[i - 1][0] - 0.5), Math.ceil(x - 0.5) - 1, value);
        winding += direction;
      });
    }
  }

  clear() {
    this.data.fill(0);
    this.touch(0, 0, this.width, this.height);
  }

  invert() {
    for (let i = 0; i < this.data.length; i++) this.data[i] ^= 1;
    this.touch(0, 0, this.width, this.height);
  }

  // Fills the pixels of a row from left to right, both included, as far as they exist.
  fillRow(row, left, right, value) {
    const [from, to] = [Math.max(0, left), Math.min(this.width - 1, right)];
    if (from > to) return;
    this.data.fill(value, row * this.width + from, row * this.width + to + 1);
    this.touch(from, row, to + 1, row + 1);
  }

  touch(left, top, right, bottom) {
    const widened = (old) =>
      old
        ? [Math.min(old[0], left), Math.min(old[1], top), Math.max(old[2], right), Math.max(old[3], bottom)]
        : [left, top, right, bottom];
    this.changed = widened(this.changed);
    this.fresh = widened(this.fresh);
  }

  // ------------------------------------------------------------------------------------------------------ steps

  // Shows what was drawn since the last call, without ending the step.
  show() {
    if (this.fresh) this.onChange(this.fresh);
    this.fresh = null;
  }

  // Ends a step, which can then be undone. A step that changed nothing is none.
  commit() {
    const rectangle = this.changed;
    this.changed = this.fresh = null;
    if (!rectangle) return;
    const difference = this.countDifference(rectangle);
    this.onChange(rectangle);
    if (difference === null) return;
    this.undoSteps.push({ rectangle, pixels: this.crop(this.committed, rectangle) });
    this.redoSteps = [];
    this.copy(this.data, this.committed, rectangle);
    this.marked += difference;
    this.version += 1;
    let bytes = 0;
    let kept = this.undoSteps.length;
    while (kept > 0 && (bytes += this.undoSteps[kept - 1].pixels.length) <= Mask.HISTORY_BYTES) kept--;
    this.undoSteps.splice(0, Math.min(kept, this.undoSteps.length - 1));
  }

  // Takes back a step that has not ended.
  cancel() {
    const rectangle = this.changed;
    this.changed = this.fresh = null;
    if (!rectangle) return;
    this.copy(this.committed, this.data, rectangle);
    this.onChange(rectangle);
  }

  undo() {
    return this.exchange(this.undoSteps, this.redoSteps);
  }

  redo() {
    return this.exchange(this.redoSteps, this.undoSteps);
  }

  // Takes the last step of one list, exchanges its pixels with those of the mask, and puts it onto the other list.
  exchange(from, to) {
    const step = from.pop();
    if (!step) return false;
    const { rectangle, pixels } = step;
    const [left, top, right, bottom] = rectangle;
    to.push({ rectangle, pixels: this.crop(this.data, rectangle) });
    for (let row = top; row < bottom; row++) {
      const start = (row - top) * (right - left);
      this.data.set(pixels.subarray(start, start + right - left), row * this.width + left);
    }
    this.marked += this.countDifference(rectangle) ?? 0;
    this.copy(this.data, this.committed, rectangle);
    this.version += 1;
    this.onChange(rectangle);
    return true;
  }

  // Returns how many more pixels are marked in a rectangle than before the step; null if no pixel differs.
  countDifference([left, top, right, bottom]) {
    let [difference, isDifferent] = [0, false];
    for (let row = top; row < bottom; row++) {
      for (let i = row * this.width + left; i < row * this.width + right; i++) {
        difference += this.data[i] - this.committed[i];
        isDifferent ||= this.data[i] !== this.committed[i];
      }
    }
    return isDifferent ? difference : null;
  }

  crop(source, [left, top, right, bottom]) {
    const pixels = new Uint8Array((right - left) * (bottom - top));
    for (let row = top; row < bottom; row++) {
      const start = row * this.width;
      pixels.set(source.subarray(start + left, start + right), (row - top) * (right - left));
    }
    return pixels;
  }

  copy(source, target, [left, top, right, bottom]) {
    for (let row = top; row < bottom; row++) {
      const start = row * this.width;
      target.set(source.subarray(start + left, start + right), start + left);
    }
  }

  // ------------------------------------------------------------------------------------------------- the program

  // Returns one bit per pixel, row by row without gaps; the first pixel is the highest bit of the first byte.
  toBits() {
    const bits = new Uint8Array(Math.ceil(this.data.length / 8));
    for (let i = 0; i < this.data.length; i++) bits[i >> 3] |= this.data[i] << (7 - (i & 7));
    return bits;
  }

  // Takes a mask over from the program; this cannot be undone.
  fromBits(bits) {
    for (let i = 0; i < this.data.length; i++) this.data[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
    this.committed.set(this.data);
    this.marked = this.data.reduce((sum, value) => sum + value, 0);
    this.onChange([0, 0, this.width, this.height]);
  }
}
