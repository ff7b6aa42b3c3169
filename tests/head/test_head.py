"""The head's layers against the papers' (GranSAM, supplement 2), computed in NumPy."""

import numpy as np
import torch
from torch import nn

from usam_core.config.schema import HeadConfig, SamConfig
from usam_core.head.model import Head, LateHead, make_head, mixed_logits


def test_the_layers_are_those_of_the_papers():
    head = Head(1024, 20)
    kinds = [type(layer) for layer in head.layers]
    relu = [nn.Linear, nn.ReLU]
    assert kinds == [*relu, *relu, *relu, nn.Dropout, nn.Linear]
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    assert [(one.in_features, one.out_features) for one in linear] == [
        (1024, 512),
        (512, 256),
        (256, 128),
        (128, 20),
    ]
    assert head.layers[6].p == 0.9


def test_the_forward_pass_by_hand():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of other weights a layer may have nothing below 0
        head = Head(6, 3, (5, 4, 7), 0.5).eval()
    head.mean.fill_(0.25)
    head.deviation.fill_(2.0)
    rows = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    values = (rows - 0.25) / 2
    layers = [one for one in head.layers if isinstance(one, nn.Linear)]
    for number, layer in enumerate(layers):
        values = values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if number < 3:
            assert (values < 0).any(), "a missing ReLU would not be seen"
            values = np.maximum(values, 0)
    np.testing.assert_allclose(head(torch.from_numpy(rows)).detach().numpy(), values, rtol=1e-5)


def test_dropout_falls_on_the_third_hidden_layer_alone():
    """With all of the third layer dropped, nothing but the last bias is left."""
    head = Head(6, 3, (5, 4, 7), 1.0 - 1e-12).train()
    rows = torch.randn(50, 6)
    expected = head.layers[-1].bias.expand(50, 3)
    assert torch.allclose(head(rows), expected)
    first = head.layers[:6](rows)
    assert torch.equal(first, head.layers[:6](rows)), "the first two layers drop nothing"


def test_another_opinion_moves_the_classes_and_leaves_further_outputs():
    """At weight 1/4: odds 1 : 16 to the power of 3/4 by 81 : 1 to that of 1/4 are 3 : 8."""
    odds = torch.tensor([[1.0, 16.0, 5.0], [16.0, 1.0, 0.5], [0.16, 0.01, 1.0]])
    others = torch.tensor([[81.0, 1.0], [1.0, 16.0], [2.0, 2.0]])
    found = mixed_logits(odds.log(), others.log(), 0.25).exp()
    # The classes keep what they had together: 17, 17 and 0.17.
    shares = torch.tensor([[3 / 11, 8 / 11], [0.8, 0.2], [8 / 9, 1 / 9]])
    together = torch.tensor([[17.0], [17.0], [0.17]])
    torch.testing.assert_close(found, torch.cat([together * shares, odds[:, 2:]], dim=1))


def test_two_blocks_are_enough_to_be_fused():
    assert isinstance(make_head([2, 3], 4, (8, 7, 6), 0.5), LateHead)


def test_defaults_that_the_papers_give():
    head, sam = HeadConfig(), SamConfig()
    assert head.hidden == (512, 256, 128)
    assert head.dropout == 0.9
    assert (head.lambda_mil, head.lambda_uncertainty) == (1.0, 0.15)
    assert (head.batch_size, head.learning_rate) == (64, 0.001)
    assert sam.points_per_side == 10, "d = 100 prompts"
