import pickle

import pytest
import torch
from helpers import small_encoder, smooth_images
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.regularizers import WeightedRegularizers, create_regularizer, list_regularizers


@pytest.mark.parametrize("name", list_regularizers())
def test_regularizers_are_pickled(name):
    regularizer, encoder, features = create_regularizer(name), nn.Conv2d(3, 4, 3), torch.rand(2, 4, 3, 3)
    again = pickle.loads(pickle.dumps(regularizer))
    assert again(encoder, features) == regularizer(encoder, features)


@pytest.mark.parametrize(
    "regularizer", [f"{name}[on={on}]" for name in list_regularizers() for on in ("weights", "features")]
)
def test_training_shrinks_the_penalty(regularizer):
    batch = smooth_images(3)
    task = sp.CrossChannelPrediction("lab:L", "lab:ab", small_encoder(1), regularizers={regularizer: 0.1})
    optimizer, penalties = torch.optim.SGD(task.parameters(), lr=1e-2), []
    for _ in range(5):
        output = task(batch)
        assert output.loss.item() == pytest.approx(sum(value.item() for value in output.terms.values()), rel=1e-5)
        penalties.append(output.terms[f"regularizer {regularizer}"].item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert min(penalties[1:]) < penalties[0]


def test_errors_say_what_is_wrong():
    message = "each regularizer must be given by name with its weight, such as {'l2': 1e-4}, got 'l2'"
    with pytest.raises(ArgumentError, match=message):
        WeightedRegularizers("l2")
    with pytest.raises(ArgumentError, match=r"the regularizer 'l2\[on=features\]' is named twice"):
        WeightedRegularizers({"l2[on=features]": 1.0, "l2[ on=features]": 2.0})
    with pytest.raises(ArgumentError, match="on of a regularizer must be 'weights' or 'features', got 'biases'"):
        create_regularizer("l2[on=biases]")
    with pytest.raises(ArgumentError, match="the encoder ReLU has no weight matrices to regularize; use on=features"):
        create_regularizer("l2")(nn.ReLU(), torch.zeros(1, 1, 2, 2))
