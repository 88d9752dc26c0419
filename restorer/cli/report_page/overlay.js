// The map of the uncertainty of a result, in the colours of its bands.
"use strict";

class Overlay {
  // image: the layer, whose values are steps * log2(1 + half width in levels); 0 stands for pixels of the input.
  // limits: half widths between the bands; colours: "#rrggbb" of each band.
  constructor(image, { steps, limits, bands }) {
    this.steps = steps;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    this.canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, width, height);
    this.values = Uint8Array.from({ length: width * height }, (_, i) => pixels.data[4 * i]);
    const encoded = limits.map((limit) => Math.round(steps * Math.log2(1 + limit)));
    const colours = bands.map(({ colour }) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
    const table = Array.from({ length: 256 }, (_, value) => {
      const above = encoded.findIndex((limit) => value <= limit);
      return [...colours[above < 0 ? limits.length : above], value ? 255 : 0];
    });
    this.values.forEach((value, i) => pixels.data.set(table[value], 4 * i));
    context.putImageData(pixels, 0, 0);
  }

  // Returns the half width in levels at a point of the picture, given as parts of its width and height; null outside.
  levels(x, y) {
    const { width, height } = this.canvas;
    const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
    if (column < 0 || row < 0 || column >= width || row >= height) return null;
    return 2 ** (this.values[row * width + column] / this.steps) - 1;
  }
}
