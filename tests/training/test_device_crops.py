"""Crops that a device cuts: the same bytes as those that Pillow and NumPy cut on the host."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.diffusion.schedule import Schedule
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.priors.unet_prior import ModelSpec
from restorer.training import loop
from restorer.training.crops import Augmentation, CropStream, Window
from restorer.training.datasets import Dataset, find_sources
from restorer.training.device_crops import DeviceCutter, cut_on_device, fits_on_device, lanczos_weights
from restorer.training.loop import Machine, train
from restorer.training.recipe import Recipe

CPU = torch.device("cpu")
IMAGES = Path(__file__).resolve().parents[1] / "images"


def pictures() -> list[np.ndarray]:
    """Return pictures with the strongest contrasts, of noise, of a slope and of a photograph."""
    rng = np.random.default_rng(0)
    board = 255 * (np.indices((70, 90)).sum(0) % 2)
    with Image.open(IMAGES / "gates.jpg") as image:
        photograph = np.asarray(image.convert("RGB").resize((120, 80)))
    slope = np.linspace(0, 255, 64)[:, None, None] * np.ones((1, 101, 3))
    noise = rng.integers(0, 256, (65, 77, 3))
    return [
        np.ascontiguousarray(p, dtype=np.uint8) for p in (np.repeat(board[..., None], 3, 2), photograph, slope, noise)
    ]


def check(windows: list[Window], crop: int) -> None:
    """Check that the device cuts the windows as the host does."""
    found = DeviceCutter(pictures(), crop, CPU).cut(windows).numpy()
    expected = np.stack([Augmentation(crop).cut(pictures()[window.picture], window) for window in windows])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("crop", [16, 32, 31])
def test_every_side_is_shrunk_as_pillow_shrinks_it(crop: int) -> None:
    """All factors from 1 to 2, on every picture."""
    check([Window(k, 0, 2, side) for k in range(4) for side in range(crop, 2 * crop + 1)], crop)


@pytest.mark.parametrize("side", [16, 27])
def test_crops_are_turned_and_mirrored_as_numpy_turns_them(side: int) -> None:
    choices = product(range(4), (False, True), (False, True))
    check([Window(3, 5, 7, side, quarters, mirrored, gray) for quarters, mirrored, gray in choices], 16)


def test_every_gray_value_is_rounded_alike() -> None:
    """All 16.7 million colours would take long; these include sums that lie between two levels."""
    red, green, blue = np.meshgrid(np.arange(0, 256, 5), np.arange(256), np.arange(0, 256, 3), indexing="ij")
    colours = np.stack([red, green, blue], -1).reshape(-1, 3).astype(np.uint8)
    side = int(np.sqrt(len(colours)))
    picture = colours[: side * side].reshape(side, side, 3)
    window = Window(0, 0, 0, side, is_gray=True)
    found = DeviceCutter([picture], side, CPU).cut([window])[0].numpy()
    np.testing.assert_array_equal(found, Augmentation(side).cut(picture, window))
    weighted = picture.astype(int) @ [299, 587, 114]
    assert (weighted % 1000 == 500).any()
    assert np.abs(found[..., 0] - weighted / 1000).max() <= 0.5 + 1e-9


def test_the_weights_are_those_of_a_normalized_filter() -> None:
    first, weights = lanczos_weights(48, 32)
    assert np.abs(weights.sum(1) - 2**22).max() <= 13  # each weight is rounded
    assert (first >= 0).all() and (first + (weights != 0).sum(1) <= 48).all()
    _, same = lanczos_weights(32, 32)
    assert ((same == 0) | (same == 2**22)).all()  # nothing is shrunk, and nothing changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the pictures to a folder."""
    (tmp_path / "pictures").mkdir()
    for k, picture in enumerate(pictures()):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{k}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("memory", [10**9, 70_000])
def test_batches_are_those_of_the_host(folder: Path, memory: int) -> None:
    """This holds for pictures that are used in rounds, too, and from any batch on."""
    sources, augmentation = find_sources([folder], 16).sources, Augmentation(16, downscale=0.5, gray=0.3)
    assert Dataset(sources, memory, 1).in_rounds == (memory < 10**9)

    def stream() -> CropStream:
        return CropStream(Dataset(sources, memory, 1), augmentation, 6, seed=1, threads=2)

    expected = list(islice(stream().batches(3), 20))
    found = list(islice(cut_on_device(stream(), CPU, 3), 20))
    assert len({batch.tobytes() for batch in expected}) == 20
    for host, device in zip(expected, found, strict=True):
        np.testing.assert_array_equal(device.numpy(), host)


def test_a_part_of_a_batch_is_cut_as_in_the_whole(folder: Path) -> None:
    dataset, augmentation = Dataset(find_sources([folder], 16).sources, 10**9, 1), Augmentation(16, 0.5, 0.3)
    read = dataset.decode_share(0)
    whole = CropStream(dataset, augmentation, 7, seed=1).make_batch(4, read)
    parts = [CropStream(dataset, augmentation, 7, 1, part=slice(a, b)).make_batch(4, read) for a, b in ((0, 3), (3, 7))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_training_on_crops_of_the_device_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(ResidualUNetConfig(12, 12, (8, 16)), Schedule("squaredcos_cap_v2"), "v_prediction", patch_size=2)
    recipe, machine = Recipe(steps=3, batch=4, crop=16, downscale=0.5), Machine("cpu", "fp32")
    calls = []
    for name in ("host", "device"):
        train(spec, recipe, [folder], tmp_path / name, machine)
        monkeypatch.setattr(loop, "fits_on_device", lambda size, device: calls.append(size) or True)
    assert calls == [sum(p.nbytes for p in pictures())]
    host, device = (
        (tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("host", "device")
    )
    assert host == device
    other = replace(recipe, seed=1)
    train(spec, other, [folder], tmp_path / "other", machine)
    assert (tmp_path / "other" / "diffusion_pytorch_model.safetensors").read_bytes() != host


def test_pictures_stay_on_the_host_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    assert fits_on_device(5_000, torch.device("cuda")) and not fits_on_device(5_001, torch.device("cuda"))
    assert not fits_on_device(1, CPU)
