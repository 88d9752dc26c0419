"""Models of other programs are named for what they are, and nothing in them is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_fixtures import TINY
from PIL import Image
from safetensors.torch import save_file

from restorer.cli.app import run
from restorer.errors import ModelError
from restorer.models.checkpoints import save_model
from restorer.models.foreign import explained, kind_of_bytes, kind_of_names, recognize
from restorer.models.load import load_prior

ONE = torch.zeros(1)


def torch_file(content: object, name: str = "model.pth", *, zipped: bool = True) -> Callable[[Path], Path]:
    """Return a function that writes a file of `torch.save`."""

    def write(folder: Path) -> Path:
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
        return folder / name

    return write


def safe_file(*names: str) -> Callable[[Path], Path]:
    """Return a function that writes a file of safetensors with weights of these names."""

    def write(folder: Path) -> Path:
        save_file({name: ONE.clone() for name in names}, folder / "model.safetensors")
        return folder / "model.safetensors"

    return write


def binary(name: str, content: bytes) -> Callable[[Path], Path]:
    """Return a function that writes a file of these bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def folder_of(**files: object) -> Callable[[Path], Path]:
    """Return a function that writes a folder with JSON files; two underscores stand for a dot."""

    def write(folder: Path) -> Path:
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(json.dumps(content), encoding="utf-8")
        return folder

    return write


def script(folder: Path) -> Path:
    path = folder / "model.pt"
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), path)
    return path


def keras(folder: Path) -> Path:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    return path


def ncnn_weights(folder: Path) -> Path:
    (folder / "model.param").write_text("7767517\n", encoding="ascii")
    (folder / "model.bin").write_bytes(bytes(64))
    return folder / "model.bin"


def picture(folder: Path) -> Path:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder / "a.png"


RRDB = {f"body.0.rdb1.conv{i}.weight": ONE for i in (1, 2)}
WAYS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "Real-ESRGAN": (torch_file({"params_ema": {"conv_first.weight": ONE, **RRDB}}), "an ESRGAN network"),
    "Real-ESRGAN before 1.6": (torch_file({"params_ema": RRDB}, zipped=False), "an ESRGAN network"),
    "old ESRGAN": (torch_file({"model.1.sub.0.RDB1.conv1.0.weight": ONE}), "an ESRGAN network"),
    "compact": (torch_file({"params": {f"body.{i}.weight": ONE for i in range(4)}}), "compact network of Real-ESRGAN"),
    "SwinIR": (safe_file("layers.0.residual_group.blocks.0.attn.proj.weight"), "a SwinIR network"),
    "LoRA": (safe_file("lora_unet_mid.lora_down.weight", "lora_unet_mid.lora_up.weight"), "a LoRA"),
    "LoRA of PEFT": (safe_file("unet.mid_block.to_q.lora_A.weight"), "a LoRA"),
    "VAE": (safe_file("encoder.down_blocks.0.x", "decoder.up_blocks.0.x", "quant_conv.weight"), "a VAE"),
    "Stable Diffusion": (safe_file("model.diffusion_model.out.0.weight"), "a checkpoint of Stable Diffusion"),
    "LaMa": (torch_file({"generator.model.5.conv1.ffc.convl2l.weight": ONE}), "a LaMa network"),
    "with code": (torch_file({"net": RRDB, "class": torch.nn.Conv2d}), "an ESRGAN network"),
    "TorchScript": (script, "a TorchScript program"),
    "Keras": (keras, "a Keras model"),
    "HDF5": (binary("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(24)), "Keras"),
    "ONNX": (binary("model.pth", b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(24)), "an ONNX model"),
    "ONNX without a producer": (binary("model.onnx", b"\x08\x0a\x52\x07" + bytes(24)), "an ONNX model"),
    "GGUF": (binary("model.gguf", b"GGUF\x03" + bytes(32)), "a GGUF file"),
    "Core ML": (binary("model.mlmodel", b"\x08\x05\x12\x07pytorch" + bytes(24)), "a Core ML model"),
    "TensorFlow Lite": (binary("model.bin", bytes(4) + b"TFL3" + bytes(24)), "TensorFlow Lite"),
    "ncnn": (binary("model.param", b"7767517\n3 3\n"), "the description of an ncnn model"),
    "weights of ncnn": (ncnn_weights, "the weights of an ncnn model"),
    "a pickle": (binary("model.pkl", b"\x80\x04N."), "a Python pickle"),
    "a picture": (picture, "a picture, not a model"),
    "a page": (binary("model.pth", b"\n<!DOCTYPE html><html>"), "a web page"),
    "a text-to-image pipeline": (
        folder_of(model_index__json={"_class_name": "StableDiffusionPipeline", "unet": ["d", "UNet2DConditionModel"]}),
        "a text-to-image pipeline (StableDiffusionPipeline)",
    ),
    "the folder of a VAE": (folder_of(config__json={"_class_name": "AutoencoderKL"}), "a VAE"),
    "a language model": (folder_of(config__json={"model_type": "llama"}), "the Transformers library (llama)"),
    "SavedModel": (lambda folder: binary("saved_model.pb", b"")(folder).parent, "a SavedModel of TensorFlow"),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_foreign_model_is_named(name: str, tmp_path: Path) -> None:
    write, kind = WAYS[name]
    path = write(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_prior(path, "cpu")
    assert f"{path} cannot be a prior: it is " in str(caught.value) and kind in str(caught.value)
    is_start = "in a single pass" in str(caught.value)
    assert "\n" not in str(caught.value) and ("--start" if is_start else "restore models list") in caught.value.hint


def test_the_command_ends_with_exit_code_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, image = WAYS["Real-ESRGAN"][0](tmp_path), picture(tmp_path)
    assert run(["upscale", str(image), "--model", str(model), "-q"]) == 5
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "an ESRGAN network" in errors[0]


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    """Recognizing a file that would write another one reads its texts, and nothing else."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "trapped",)

    torch.save({"params_ema": RRDB, "trap": Trap()}, tmp_path / "model.pth")
    assert recognize(tmp_path / "model.pth") == "an ESRGAN network, which enlarges in a single pass"
    assert not (tmp_path / "trapped").exists()


def test_a_model_of_this_program_is_not_foreign(tmp_path: Path) -> None:
    save_model(tmp_path, TINY.network.build(), TINY)
    assert recognize(tmp_path) is None and recognize(tmp_path / "diffusion_pytorch_model.safetensors") is None
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04N.")  # damaged, but in its own layout
    error = ModelError("damaged", "copy it again")
    assert explained(tmp_path / "diffusion_pytorch_model.safetensors", error) is error


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"\x09\0\0\0\0\0\0\0{", bytes(300), b"\x80\x04\x95"])
def test_damaged_files_are_no_kind_or_a_pickle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    assert recognize(tmp_path / "model.pth") in (None, "a Python pickle")


def test_nothing_is_said_of_what_says_nothing() -> None:
    assert kind_of_bytes(b"") is None and kind_of_names([]) is None
    assert kind_of_names(["input_blocks.0.0.weight", "middle_block.1.qkv.weight", "out.2.bias"]) is None
    assert kind_of_names(TINY.network.build().state_dict()) is None
    assert recognize(Path("absent")) is None
