"""The features of the classifier that a training compares: against torchvision, and what they ignore and see."""

import pytest
import torch

from restorer.errors import ModelError
from restorer.training.adversary import feature_distance
from restorer.training.classifier import CONTRAST, LAYERS, MEAN, load_classifier


def test_features_are_those_of_torchvision(mobilenet, classifier) -> None:
    x = torch.rand(2, 3, 64, 48)
    mean, contrast = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, CONTRAST))
    expected, y = [], (x - mean) / contrast
    with torch.no_grad():
        for i, layer in enumerate(mobilenet.features):
            y = layer(y)
            if i in LAYERS:
                expected.append(y)
    found = classifier(2 * x - 1)
    assert [f.shape[-1] for f in found] == [24, 24, 12, 12, 6, 6, 3, 3, 3]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_calibrated_features_have_unit_deviation(classifier) -> None:
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    classifier.calibrate(x)
    for feature in classifier(x):
        deviation = feature.std((0, 2, 3))
        assert bool((deviation < 1.01).all()) and float(deviation.median()) == pytest.approx(1, abs=0.01)


def test_the_distance_reaches_the_pixels_and_no_weight(classifier) -> None:
    x = torch.rand(1, 3, 32, 32)
    made = (x + 0.05 * torch.randn_like(x)).requires_grad_(True)
    assert feature_distance(classifier(x), classifier(x)) == 0
    feature_distance(classifier(x), classifier(made)).backward()
    assert float(made.grad.abs().min()) > 0
    assert all(p.grad is None for p in classifier.parameters())


def test_a_file_that_is_missing_or_another_is_refused(tmp_path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(ModelError, match="cannot be read"):
        load_classifier(path)
    torch.save({}, path)
    with pytest.raises(ModelError, match=r"weights\.pt"):
        load_classifier(path)
