"""Models of other programs, recognized so that the refusal says what they are and what serves instead.

People have many kinds of model files, and a name such as `model.pth` does not tell them apart. The first bytes of a
file, the names of its weights, or the files in a folder do. Nothing here builds a network or runs a pickle: the names
in a pickle are read as text, opcode by opcode.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from restorer.errors import ModelError
from restorer.models.layout import CONFIG, INDEX
from restorer.models.weight_files import LEGACY_MAGIC, LEGACY_PICKLES, MAX_HEADER, ZIP_MAGIC

__all__ = ["explained", "kind_of_bytes", "kind_of_names", "recognize"]

HINT = (
    "use an unconditional diffusion model (DDPM): leave --model out for the embedded one, or choose one that "
    "restore models list prints"
)

START_HINT = "name it with --start, so that its result is the start of the restoration"

MAX_NAMES = 50_000
_ZIP_ERRORS = (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile)
MAX_CONFIG = 64 * 1024  # bytes of a config.json that is read

_PICTURE, _PAGE = "a picture, not a model", "a web page, not the weights that it leads to"

# What a file begins with: the offset, the bytes, and what the file is.
_MAGIC = (
    (0, b"GGUF", "a GGUF file of a language or text-to-image model"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file of TensorFlow or Keras"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an ONNX Runtime model"),
    (0, b"7767517\n", "the description of an ncnn model"),
    (0, b"7767517\r\n", "the description of an ncnn model"),
    (0, b"\x47\x6b\x30\x01", "the weights of an ncnn model"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89PNG", _PICTURE),
    (0, b"\xff\xd8\xff", _PICTURE),
    (8, b"WEBP", _PICTURE),
    (0, b"%PDF", "a PDF document"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
)
_TEXT_MAGIC = ((b"<!doctype html", _PAGE), (b"<html", _PAGE), (b"<?xml", "an XML file, as OpenVINO's models have"))
# ONNX has no magic bytes: a message of protobuf whose first field is the version, followed by one of these fields.
_ONNX_FIELDS = (0x12, 0x1A, 0x22, 0x32, 0x3A, 0x42)
_MAX_ONNX_VERSION = 20

# Files without magic bytes, by the end of their name.
_SUFFIXES = {
    ".mlmodel": "a Core ML model",
    ".pb": "a TensorFlow graph",
    ".tflite": "a TensorFlow Lite model",
    ".mnn": "an MNN model",
    ".caffemodel": "a Caffe model",
    ".prototxt": "the description of a Caffe model",
    ".pdmodel": "a PaddlePaddle model",
    ".pdparams": "a PaddlePaddle model",
    ".msgpack": "the weights of a Flax model",
}

# An entry of a zip file, at its end, and what the file is.
_ZIP_ENTRIES = (
    ("/constants.pkl", "a TorchScript program"),
    ("model.weights.h5", "a Keras model"),
    ("serialized_exported_program.json", "a program of torch.export"),
    (".npy", "a file of NumPy arrays"),
    ("coremldata.bin", "a Core ML model"),
)

SINGLE_PASS = "in a single pass"
_SR, _REPAIR = f"which enlarges {SINGLE_PASS}", f"which repairs pictures {SINGLE_PASS}"
# What the names of the weights tell. Each of the patterns must be found in some name; the first match counts.
_NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoRA, an addition to another model", (r"\blora_|\.lora[._]|_lora[._]|\.hada_w1|\.lokr_w",)),
    ("a ControlNet, an addition to another model", (r"controlnet_cond_embedding|^control_model\.|\bzero_convs\.",)),
    ("an IP-Adapter, an addition to another model", (r"ip_adapter|image_proj\.",)),
    ("a textual inversion, an addition to another model", (r"^emb_params$|^string_to_param$",)),
    ("a checkpoint of Stable Diffusion, a text-to-image model", (r"^model\.diffusion_model\.",)),
    ("a text-to-image transformer", (r"double_blocks\.0|joint_blocks\.0|adaLN_modulation|caption_projection",)),
    ("a face restorer such as GFPGAN, " + _REPAIR, (r"stylegan_decoder",)),
    ("a CodeFormer network, " + _REPAIR, (r"(^|\.)quantize\.embedding", r"position_emb|ft_layers")),
    ("a VAE, the autoencoder of a latent diffusion model", (r"quant_conv\.", r"encoder\.", r"decoder\.")),
    ("a VAE, the autoencoder of a latent diffusion model", (r"encoder\.(down|mid)", r"decoder\.(up|mid)")),
    ("a text-conditional network of a text-to-image model", (r"transformer_blocks\.\d+\.attn2\.",)),
    ("an ESRGAN network, " + _SR, (r"\.rdb1\.conv1\.|\.RDB1\.conv1\.",)),
    ("a HAT network, " + _SR, (r"overlap_attn",)),
    ("a Swin2SR network, " + _SR, (r"residual_group\.blocks", r"cpb_mlp|logit_scale")),
    ("a SwinIR network, " + _SR, (r"residual_group\.blocks",)),
    ("a DAT network, " + _SR, (r"blocks\.\d+\.attn\.attns\.",)),
    ("a RealPLKSR network, " + _SR, (r"feats\.\d+\.lk\.",)),
    ("a SPAN network, " + _SR, (r"block_1\.c1_r\.",)),
    ("an RCAN or EDSR network, " + _SR, (r"(^|\.)head\.0\.", r"(^|\.)body\.0\.body\.0\.", r"(^|\.)tail\.0\.")),
    ("a compact network of Real-ESRGAN, " + _SR, (r"^body\.0\.weight$", r"^body\.2\.weight$")),
    ("a Restormer network, " + _REPAIR, (r"encoder_level1\.0\.attn\.temperature",)),
    ("a NAFNet network, " + _REPAIR, (r"(^|\.)encoders\.0\.0\.beta", r"(^|\.)intro\.")),
    ("a SCUNet network, " + _REPAIR, (r"m_body\.\d+\.trans_block",)),
    ("an FBCNN network, " + _REPAIR, (r"qf_pred",)),
    ("a DRUNet network, " + _REPAIR, (r"m_down1\.\d+\.res\.",)),
    ("a MPRNet network, " + _REPAIR, (r"shallow_feat1\.",)),
    ("a LaMa network, which fills holes in a single pass", (r"\.ffc\.convl2l|\.convl2g",)),
    ("a CLIP encoder", (r"text_model\.encoder\.layers|visual\.transformer",)),
    ("a language model", (r"layers\.0\.self_attn\.[qkv]_proj|transformer\.h\.0\.attn",)),
    ("a classifier of images", (r"(^|\.)layer1\.0\.conv1\.", r"(^|\.)fc\.weight")),
    ("a classifier of images", (r"(^|\.)features\.0\.(0\.)?weight", r"(^|\.)classifier\.")),
)

# Files by which a folder is told: a pattern of the name, and what the folder is.
_FOLDERS = (
    ("saved_model.pb", "a SavedModel of TensorFlow"),
    ("coremldata.bin", "a Core ML model"),
    ("Manifest.json", "a Core ML model"),
    ("adapter_config.json", "a LoRA, an addition to another model"),
    ("*.onnx", "a folder of ONNX models"),
    ("*.gguf", "a folder of GGUF models"),
    ("*.param", "a folder of ncnn models"),
)


def explained(path: Path, error: ModelError) -> ModelError:
    """Return the error about a model that cannot be read, or one that says what the model is if that is recognized.

    Args:
        path: The file or folder of the model.
        error: The error.
    """
    kind = recognize(path)
    if kind is None:
        return error
    return ModelError(f"{path} cannot be a prior: it is {kind}", START_HINT if SINGLE_PASS in kind else HINT)


def recognize(path: Path) -> str | None:
    """Return what kind of foreign model a path is, such as "an ESRGAN network"; None if it is not recognized.

    Args:
        path: A file or a folder. A weights file in a model folder of this program's own layout is not examined.
    """
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        if (path.parent / CONFIG).is_file():
            return None
        with path.open("rb") as file:
            head = file.read(256)
        kind = kind_of_bytes(head, path.name) or _kind_of_zip(path, head)
        if kind is None and path.suffix == ".bin" and path.with_suffix(".param").is_file():
            kind = "the weights of an ncnn model"
        return kind or kind_of_names(_names_in(path, head)) or ("a Python pickle" if _is_bare_pickle(head) else None)
    except OSError:
        return None


def kind_of_bytes(head: bytes, name: str = "") -> str | None:
    """Return what the first bytes of a file say that it is; None if they say nothing.

    Args:
        head: The first bytes, at least 32 if the file has as many.
        name: The name of the file, which tells the formats without magic bytes.
    """
    for offset, magic, kind in _MAGIC:
        if head[offset:].startswith(magic):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, kind in _TEXT_MAGIC:
        if text.startswith(magic):
            return kind
    suffix = Path(name).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    is_versioned = len(head) > 2 and head[0] == 8 and 1 <= head[1] <= _MAX_ONNX_VERSION
    if is_versioned and (head[2] in _ONNX_FIELDS or suffix == ".onnx"):
        return "an ONNX model"
    return None


def kind_of_names(names: Iterable[str]) -> str | None:
    """Return what the names of weights say that a model is; None if they say nothing.

    Args:
        names: The names, with any prefixes, and in any order.
    """
    known = list(names)
    for kind, patterns in _NAMES:
        if all(any(re.search(pattern, name) for name in known) for pattern in patterns):
            return kind
    return None


def _kind_of_folder(folder: Path) -> str | None:
    """Return what a folder that is no model of this program is; None if it is not recognized."""
    for pattern, kind in _FOLDERS:
        if next(folder.glob(pattern), None) is not None:
            return kind
    index, config = _read_object(folder / INDEX), _read_object(folder / CONFIG)
    name = str(index.get("_class_name", ""))[:60]
    if index and ("text_encoder" in index or "tokenizer" in index or "UNet2DConditionModel" in str(index.get("unet"))):
        return f"a text-to-image pipeline ({_plain(name)}), whose network is text-conditional"
    name = str(config.get("_class_name", ""))[:60]
    if name.startswith(("Autoencoder", "VQModel")):
        return "a VAE, the autoencoder of a latent diffusion model"
    if name.startswith("ControlNet"):
        return "a ControlNet, an addition to another model"
    if name.startswith("UNet2DConditionModel"):
        return "the text-conditional network of a text-to-image model"
    if "model_type" in config or "architectures" in config:
        return f"a model of the Transformers library ({_plain(str(config.get('model_type', 'unknown'))[:60])})"
    return None


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _read_object(path: Path) -> dict[str, object]:
    """Return the object in a small JSON file; an empty one if there is none."""
    with suppress(OSError, ValueError, RecursionError):
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_CONFIG))
        return content if isinstance(content, dict) else {}
    return {}


def _names_in(path: Path, head: bytes) -> list[str]:
    """Return the names of the weights in a file, and other texts of its pickle, without running anything."""
    if head.startswith(ZIP_MAGIC):
        return _names_in_zip(path)
    with path.open("rb") as file:
        content = BytesIO(file.read(MAX_HEADER))
    if head.startswith(b"\x80"):
        count = LEGACY_PICKLES if head.startswith(LEGACY_MAGIC) else 1
        return [text for _ in range(count) for text in _texts_of_pickle(content)]
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length > MAX_HEADER:
        return []
    with suppress(ValueError, RecursionError):
        header = json.loads(content.getvalue()[8 : 8 + length])
        return [str(name) for name in header][:MAX_NAMES] if isinstance(header, dict) else []
    return []


def _kind_of_zip(path: Path, head: bytes) -> str | None:
    """Return what the entries of a zip file say that it is; None if it is no such file, or one of `torch.save`."""
    if not head.startswith(ZIP_MAGIC):
        return None
    with suppress(*_ZIP_ERRORS), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return next((kind for end, kind in _ZIP_ENTRIES if any(name.endswith(end) for name in names)), None)
    return None


def _names_in_zip(path: Path) -> list[str]:
    """Return the texts in the pickle of a zip file that `torch.save` wrote; none for another archive."""
    with suppress(*_ZIP_ERRORS), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            is_stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= MAX_HEADER
            if is_stored and entry.filename.rpartition("/")[2] == "data.pkl":
                return _texts_of_pickle(BytesIO(archive.read(entry)))
    return []


def _is_bare_pickle(head: bytes) -> bool:
    """Return whether a file begins as a pickle that `torch.save` has not written."""
    return (
        head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not head.startswith(LEGACY_MAGIC)
    )


def _texts_of_pickle(pickle: BytesIO) -> list[str]:
    """Return the texts in a pickle, up to the point at which it is damaged."""
    texts: list[str] = []
    with suppress(ValueError, EOFError, UnicodeDecodeError, KeyError, IndexError):
        for _, argument, _ in pickletools.genops(pickle):
            if isinstance(argument, str):
                texts.append(argument)
                if len(texts) >= MAX_NAMES:
                    break
    return texts
