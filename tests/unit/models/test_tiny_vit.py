"""TinyViT: shapes for every accepted size, budget, errors, and nothing cached between calls."""

from __future__ import annotations

import pytest
import torch

from stlm_core.models.tiny_vit import TinyViT


@pytest.mark.parametrize(
    ("stem", "height", "width", "grid"),
    [
        ("conv3x3", 64, 64, (4, 4)),
        ("conv3x3", 224, 160, (14, 10)),
        ("conv1x1", 32, 32, (8, 8)),
        ("conv1x1", 20, 36, (5, 9)),
    ],
)
def test_output_is_the_input_divided_by_the_stride(stem, height, width, grid):
    encoder = TinyViT(stem).eval()
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, height, width)).shape == (1, 256, *grid)


@pytest.mark.parametrize(("stem", "millions"), [("conv3x3", 5.744), ("conv1x1", 5.727)])
def test_parameter_budget(stem, millions):
    count = sum(parameter.numel() for parameter in TinyViT(stem).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.001)


def test_a_size_between_strides_is_refused():
    with pytest.raises(ValueError, match="not a multiple of the stride 16"):
        TinyViT("conv3x3")(torch.rand(1, 3, 100, 96))


def test_weights_loaded_in_eval_mode_take_effect():
    torch.manual_seed(0)
    source, early, late = TinyViT(), TinyViT(), TinyViT()
    for module in source.modules():
        if hasattr(module, "attention_biases"):
            torch.nn.init.normal_(module.attention_biases)
    image = torch.rand(1, 3, 64, 64)
    early.load_state_dict(source.state_dict())
    early.eval()
    late.eval()
    with torch.no_grad():
        before = late(image)  # a model that caches biases in eval mode would keep those of this call
        late.load_state_dict(source.state_dict())
        assert torch.equal(early(image), late(image))
        assert not torch.equal(before, late(image))


def test_images_of_a_batch_do_not_influence_each_other():
    encoder = TinyViT().eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together = encoder(images)
        alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
