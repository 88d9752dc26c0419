// The view: the picture, the mask over it and the result beside it, at any magnification.
"use strict";

class View {
  static TILE = 512; // side of the pieces in which the mask is drawn
  static MARGIN = 24; // free pixels around a picture that is shown whole

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.scale = 1; // pixels of the screen (in CSS) for one of the picture
    this.x = 0; // where the left upper corner of the picture is on the canvas
    this.y = 0;
    this.image = null;
    this.mask = null;
    this.tiles = new Map();
    this.colour = [255, 45, 85];
    this.opacity = 0.55;
    this.showsMask = true;
    this.result = null; // {image, window: [left, top, width, height]}
    this.divider = null; // where before and after meet, in pixels of the picture; null outside of a comparison
    this.cursor = null; // {x, y, size}: the outline of the brush, in pixels of the picture
    this.cross = null; // [x, y]: the cursor that keys move
    this.sketch = null; // a list of points that are joined by a thin line
    this.isFitted = true;
    this.isDue = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  setPicture(image, mask) {
    this.image = image;
    this.mask = mask;
    this.resize();
  }

  // ------------------------------------------------------------------------------------------------------- where

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    const [oldWidth, oldHeight] = [this.canvas.width / ratio, this.canvas.height / ratio];
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    if (this.isFitted) this.fit();
    else this.pan((clientWidth - oldWidth) / 2, (clientHeight - oldHeight) / 2);
  }

  fit() {
    if (!this.mask) return;
    const { clientWidth, clientHeight } = this.canvas;
    const margin = Math.min(View.MARGIN, clientWidth / 16);
    const across = (clientWidth - 2 * margin) / this.mask.width;
    const down = (clientHeight - 2 * margin) / this.mask.height;
    this.scale = Math.min(Math.max(Math.min(across, down), 1e-3), 8);
    this.x = (clientWidth - this.mask.width * this.scale) / 2;
    this.y = (clientHeight - this.mask.height * this.scale) / 2;
    this.isFitted = true;
    this.moved();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.moved();
  }

  // Magnifies around a point of the canvas, the middle if none is given.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, Math.min(0.02, this.scale)), 64);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.isFitted = false;
    this.moved();
  }

  // Keeps some of the picture in sight.
  moved() {
    if (!this.mask) return;
    const { clientWidth, clientHeight } = this.canvas;
    const rim = 48;
    this.x = Math.min(Math.max(this.x, rim - this.mask.width * this.scale), clientWidth - rim);
    this.y = Math.min(Math.max(this.y, rim - this.mask.height * this.scale), clientHeight - rim);
    this.onMove?.();
    this.draw();
  }

  toPicture(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  // -------------------------------------------------------------------------------------------------- the pieces

  updateTiles([left, top, right, bottom]) {
    const side = View.TILE;
    for (let ty = Math.floor(top / side); ty * side < bottom; ty++) {
      for (let tx = Math.floor(left / side); tx * side < right; tx++) this.updateTile(tx, ty, left, top, right, bottom);
    }
    this.draw();
  }

  updateTile(tx, ty, left, top, right, bottom) {
    const [side, mask, key] = [View.TILE, this.mask, `${tx},${ty}`];
    const [x0, y0] = [Math.max(left, tx * side), Math.max(top, ty * side)];
    const x1 = Math.min(right, mask.width, (tx + 1) * side);
    const y1 = Math.min(bottom, mask.height, (ty + 1) * side);
    const pixels = new ImageData(x1 - x0, y1 - y0);
    const words = new Uint32Array(pixels.data.buffer);
    const [word] = new Uint32Array(new Uint8ClampedArray([...this.colour, 255]).buffer);
    let isEmpty = true;
    for (let y = y0, i = 0; y < y1; y++) {
      for (let j = y * mask.width + x0; j < y * mask.width + x1; j++, i++) {
        if (!mask.data[j]) continue;
        words[i] = word;
        isEmpty = false;
      }
    }
    if (isEmpty && !this.tiles.has(key)) return;
    if (!this.tiles.has(key)) {
      const tile = document.createElement("canvas");
      tile.width = Math.min(side, mask.width - tx * side);
      tile.height = Math.min(side, mask.height - ty * side);
      this.tiles.set(key, { tx, ty, canvas: tile, context: tile.getContext("2d") });
    }
    this.tiles.get(key).context.putImageData(pixels, x0 - tx * side, y0 - ty * side);
  }

  setColour(colour) {
    this.colour = colour;
    if (this.mask) this.updateTiles([0, 0, this.mask.width, this.mask.height]);
  }

  // ----------------------------------------------------------------------------------------------------- drawing

  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      if (this.image) this.drawNow();
    });
  }

  drawNow() {
    const { context, canvas, mask } = this;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = this.scale * ratio < 2;
    context.imageSmoothingQuality = "high";
    const place = (left, top, right, bottom) => {
      // Edges lie on whole pixels of the screen, so that there are no seams between neighbours.
      const [x0, x1] = [left, right].map((x) => Math.round((this.x + x * this.scale) * ratio));
      const [y0, y1] = [top, bottom].map((y) => Math.round((this.y + y * this.scale) * ratio));
      return [x0, y0, x1 - x0, y1 - y0];
    };
    const whole = place(0, 0, mask.width, mask.height);
    this.drawCheckers(whole, ratio);
    context.drawImage(this.image, ...whole);
    if (this.divider !== null) this.drawResult(place, ratio);
    else if (this.showsMask) this.drawMask(place);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.sketch) this.drawSketch();
    if (this.cross) this.drawCross();
    if (this.cursor && this.divider === null) this.drawCursor();
  }

  // The ground on which transparent pictures are shown.
  drawCheckers([x, y, width, height], ratio) {
    const side = Math.round(10 * ratio);
    if (!this.pattern || this.patternSide !== side) {
      const tile = document.createElement("canvas");
      tile.width = tile.height = 2 * side;
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

  drawMask(place) {
    const { context, mask } = this;
    const side = View.TILE;
    context.globalAlpha = this.opacity;
    for (const { tx, ty, canvas } of this.tiles.values()) {
      const [right, bottom] = [Math.min((tx + 1) * side, mask.width), Math.min((ty + 1) * side, mask.height)];
      const [x, y, width, height] = place(tx * side, ty * side, right, bottom);
      const isVisible = x < this.canvas.width && y < this.canvas.height && x + width > 0 && y + height > 0;
      if (isVisible && width && height) context.drawImage(canvas, x, y, width, height);
    }
    context.globalAlpha = 1;
  }

  // Draws the result to the right of the divider.
  drawResult(place, ratio) {
    const { context, canvas } = this;
    const x = Math.round((this.x + this.divider * this.scale) * ratio);
    if (this.result) {
      const [left, top, width, height] = this.result.window;
      const target = place(left, top, left + width, top + height);
      context.save();
      context.beginPath();
      context.rect(x, 0, canvas.width - x, canvas.height);
      context.clip();
      context.clearRect(...target);
      this.drawCheckers(target, ratio);
      context.drawImage(this.result.image, ...target);
      context.restore();
    }
    const line = Math.max(2, Math.round(2 * ratio));
    const middle = canvas.height / 2;
    const radius = 15 * ratio;
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fillRect(x - line, 0, 2 * line, canvas.height);
    context.fillStyle = "#fff";
    context.fillRect(x - line / 2, 0, line, canvas.height);
    context.beginPath();
    context.arc(x, middle, radius, 0, 7);
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

  // Strokes the current path so that it can be seen on any ground.
  strokeTwice() {
    const { context } = this;
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / 60%)";
    context.stroke();
    context.lineWidth = 1.25;
    context.strokeStyle = "#fff";
    context.stroke();
  }

  drawCursor() {
    const { x, y, size } = this.cursor;
    this.context.beginPath();
    const [px, py] = [Mask.snap(x, size), Mask.snap(y, size)];
    const radius = Math.max((size / 2) * this.scale, 1.5);
    this.context.arc(this.x + px * this.scale, this.y + py * this.scale, radius, 0, 7);
    this.strokeTwice();
  }

  drawCross() {
    const [x, y] = [this.x + this.cross[0] * this.scale, this.y + this.cross[1] * this.scale];
    this.context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      this.context.moveTo(x + 4 * dx, y + 4 * dy);
      this.context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    this.strokeTwice();
  }

  drawSketch() {
    this.context.beginPath();
    for (const [x, y] of this.sketch) this.context.lineTo(this.x + x * this.scale, this.y + y * this.scale);
    this.context.closePath();
    this.strokeTwice();
  }
}
