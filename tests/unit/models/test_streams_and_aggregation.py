"""Two streams, their start from a teacher, and the aggregation."""

from __future__ import annotations

import torch

from stlm_core.models.aggregation import FeatureAggregation
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.models.two_stream import StreamFeatures, TwoStreamModel, discrepancy_map


def test_features_are_unit_vectors_of_both_streams_and_both_maps():
    streams = TwoStreamModel().eval()
    with torch.no_grad():
        features = streams(torch.rand(2, 3, 64, 64))
    for maps in (features.plain, features.denoising):
        assert [tuple(one.shape) for one in maps] == [(2, 256, 4, 4)] * 2
        for one in maps:
            torch.testing.assert_close(one.norm(dim=1), torch.ones(2, 4, 4))


def test_a_spread_stem_sees_what_the_teacher_sees_on_a_constant_image():
    """On a constant image averaging nine taps equals looking at one pixel, so interior features agree exactly."""
    torch.manual_seed(0)
    encoder, decoder = TinyViT("conv1x1").eval(), PromptFreeDecoder().eval()
    streams = TwoStreamModel("conv3x3").eval()
    streams.start_from(encoder, decoder)
    grey = 0.4 * torch.ones(1, 3, 128, 128)
    with torch.no_grad():
        student = streams.plain.patch_embed(grey)[..., 8:-8, 8:-8]
        teacher = encoder.patch_embed(grey[..., ::4, ::4])[..., 8:-8, 8:-8]
    torch.testing.assert_close(student, teacher, atol=1e-5, rtol=1e-4)


def test_both_streams_start_equal_and_share_one_decoder():
    encoder, decoder = TinyViT("conv3x3"), PromptFreeDecoder()
    streams = TwoStreamModel("conv3x3")
    streams.start_from(encoder, decoder)
    for key, value in encoder.state_dict().items():
        assert torch.equal(streams.plain.state_dict()[key], value)
        assert torch.equal(streams.denoising.state_dict()[key], value)
    assert torch.equal(streams.decoder.iou_token.weight, decoder.iou_token.weight)


def test_discrepancy_is_the_product_of_cosine_distances():
    one = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    other = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert discrepancy_map(StreamFeatures([one, one], [other, -one])).item() == 1.0 * 2.0
    assert discrepancy_map(StreamFeatures([one, one], [one, other])).item() == 0.0


def test_aggregation_trains_with_a_single_image():
    aggregation = FeatureAggregation().train()
    maps = [torch.rand(1, 256, 8, 8) for _ in range(4)]
    logits = aggregation(StreamFeatures(maps[:2], maps[2:]))
    logits.sum().backward()
    assert logits.shape == (1, 8, 8)
    assert all(parameter.grad is not None for parameter in aggregation.parameters())
    assert aggregation.slope.grad.abs() > 0


def test_the_skip_starts_as_the_log_of_the_discrepancy_alone():
    maps = [torch.nn.functional.normalize(torch.rand(2, 256, 4, 4) - 0.5, dim=1) for _ in range(4)]
    features = StreamFeatures(maps[:2], maps[2:])
    logits = FeatureAggregation(discrepancy_skip=True).eval()(features)
    torch.testing.assert_close(logits, 3 + torch.log(discrepancy_map(features) / 4 + 1e-4))


def test_without_the_skip_aggregation_is_the_network_alone():
    torch.manual_seed(0)
    aggregation = FeatureAggregation(discrepancy_skip=False).eval()
    maps = [torch.rand(2, 256, 4, 4) for _ in range(4)]
    agreement = torch.cat([-(maps[0] * maps[2]), -(maps[1] * maps[3])], 1)
    expected = aggregation.head(aggregation.pyramid(aggregation.residual(agreement)))[:, 0]
    torch.testing.assert_close(aggregation(StreamFeatures(maps[:2], maps[2:])), expected)
    assert not aggregation.slope.requires_grad


def test_every_parameter_of_the_streams_is_used():
    streams = TwoStreamModel()
    features = streams(torch.rand(2, 3, 64, 64))
    # Weighted at random: the plain sum of a normalised map's squares would be constant.
    sum((one * torch.rand_like(one)).sum() for maps in features for one in maps).backward()
    assert [name for name, parameter in streams.named_parameters() if parameter.grad is None] == []
