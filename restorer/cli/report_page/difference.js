// The difference of two pictures, pixel by pixel.
"use strict";

class Difference {
  // images: two images, the smaller of which is enlarged to the size of the larger by repeating its pixels.
  constructor(images) {
    this.width = Math.max(...images.map((image) => image.naturalWidth));
    this.height = Math.max(...images.map((image) => image.naturalHeight));
    this.canvas = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    this.context = this.canvas.getContext("2d");
    const [a, b] = images.map((image) => this.pixelsOf(image));
    // Where both pictures are transparent, they look the same. A difference of opacity counts in every channel.
    for (let i = 0; i < a.length; i += 4) {
      const opacity = Math.abs(a[i + 3] - b[i + 3]);
      const isHidden = !a[i + 3] || !b[i + 3];
      for (let j = i; j < i + 3; j++) a[j] = isHidden ? opacity : Math.max(Math.abs(a[j] - b[j]), opacity);
      a[i + 3] = 255;
    }
    this.values = a;
    this.factor = null;
  }

  pixelsOf(image) {
    const { width, height } = this;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }

  // Returns a canvas with the difference times a factor.
  amplified(factor) {
    if (factor !== this.factor) {
      const levels = Uint8ClampedArray.from({ length: 256 }, (_, level) => level * factor);
      const pixels = new ImageData(this.width, this.height);
      const { values } = this;
      for (let i = 0; i < values.length; i += 4) {
        pixels.data[i] = levels[values[i]];
        pixels.data[i + 1] = levels[values[i + 1]];
        pixels.data[i + 2] = levels[values[i + 2]];
        pixels.data[i + 3] = 255;
      }
      this.context.putImageData(pixels, 0, 0);
      this.factor = factor;
    }
    return this.canvas;
  }
}
