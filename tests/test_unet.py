"""The decoder with skip connections: what it can learn, what it sees, and that tasks save and load it."""

import pytest
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.encoders import SkipDecoder, create_decoder, create_encoder, feature_maps, measure_encoder
from ssl_pretext.encoders.inspection import output_and_maps
from ssl_pretext.encoders.unet import skip_layers
from ssl_pretext.errors import ArgumentError, UnknownNameError

BANDS = sp.ChannelSpace.bands("four", ["a", "b", "c", "d"], center=0.0, scale=1.0)
SIZE = 16
VIT = "timm/vit_tiny_patch16_224[img_size=32;patch_size=8;embed_dim=48;depth=2]"


def unet_task(
    encoder: "str | nn.Module" = "timm/resnet10t[layer=layer1]", *, decoder: str = "unet", **options: object
) -> sp.PretextTask:
    channels = {"source": BANDS["a", "b", "c"], "target": BANDS["d"]}
    return sp.create_task("cross_channel", encoder=encoder, decoder=decoder, **channels, **options)


def function_of_pixels(count: int, seed: int) -> Tensor:
    """Images of four bands: noise in the first three, and in the fourth a function of them plus noise of 10%."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    exact = torch.sin(2 * seen[:, :1]) + seen[:, 1:2] * seen[:, 2:]
    exact /= exact.std()
    return torch.cat([seen, exact + 0.1 * torch.randn(exact.shape, generator=generator)], dim=1)


def r2_after_training(decoder: str) -> float:
    torch.manual_seed(0)
    task = unet_task(decoder=decoder, losses={"l2": 1.0})
    train, test = function_of_pixels(256, seed=0), function_of_pixels(32, seed=1)
    optimizer = torch.optim.AdamW(task.parameters(), lr=8e-3)
    for batch in torch.randperm(256).repeat(3).split(8):
        optimizer.zero_grad()
        task(train[batch]).loss.backward()
        optimizer.step()
    true = test[:, 3:]
    return 1 - ((task.predict(test) - true) ** 2).mean().item() / true.var().item()


def test_a_function_of_pixels_without_spatial_structure_is_learned():
    assert r2_after_training("unet") >= 0.95  # 0.99 is possible
    assert r2_after_training("upsampling") < 0.2


@pytest.mark.parametrize(
    "encoder", ["autoencoder", "timm/resnet10t", "timm/convnext_atto", "torchvision/squeezenet1_1", VIT]
)
def test_one_pass_gives_the_output_of_the_encoder_and_maps_that_become_larger(encoder):
    network = create_encoder(encoder, in_channels=3).eval()
    images = torch.rand(2, 3, 64, 64)
    skips = skip_layers(network, measure_encoder(network, 3))
    with torch.no_grad():
        output, maps = output_and_maps(network, images, list(skips))
        assert torch.equal(output, network(images))
        expected = feature_maps(network, images, list(skips))
    sizes = [output.shape[-1], *(one.shape[-1] for one in maps), 65]
    assert sizes == sorted(set(sizes))
    assert not skips if encoder == VIT else skips
    for (name, shape), found in zip(skips.items(), maps, strict=True):
        assert torch.equal(found, expected[name])
        assert shape.channels == found.shape[1]


def test_training_runs_the_encoder_once():
    counted = nn.BatchNorm2d(4)
    task = unet_task(nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), counted, nn.Conv2d(4, 4, 2, stride=2)))
    task(torch.rand(2, 4, 8, 8))
    assert counted.num_batches_tracked == 1
    task = unet_task("timm/resnet10t")
    task(torch.rand(2, 4, 64, 64))
    assert {int(value) for name, value in task.state_dict().items() if name.endswith("tracked")} == {1}


@pytest.mark.parametrize("encoder", ["autoencoder", "timm/resnet10t", "torchvision/squeezenet1_1", VIT])
def test_the_prediction_depends_on_all_source_channels_and_on_no_target_channel(encoder):
    task = unet_task(encoder).eval()
    images = torch.rand(2, 4, 40, 56, requires_grad=True)
    output = task(images)
    assert output.prediction.shape == (2, 1, 40, 56)
    (gradient,) = torch.autograd.grad(output.prediction.square().sum(), images)
    assert (gradient[:, 3] == 0).all()
    assert (gradient[:, :3].abs().amax(dim=(0, 2, 3)) > 0).all()


def test_every_parameter_is_trained():
    task = unet_task("timm/resnet10t")
    task(torch.rand(2, 4, 64, 64)).loss.backward()
    assert not [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert task.networks() == [task.decoder]  # what `fit` compiles; hooks read the maps of the encoder


def test_a_denoising_task_hands_the_corrupted_input_to_the_decoder():
    task = sp.create_task("denoising", channels=BANDS["a", "b"], encoder="timm/resnet10t[layer=layer1]", decoder="unet")
    seen = []
    task.decoder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[2]))
    task.encoder.body.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with task.encoder.body.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])):
        output = task(torch.rand(2, 4, 16, 16))
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], output.target)


def test_losses_on_logits_and_an_output_stride():
    photos = torch.rand(2, 3, 32, 48)
    for stride in (1, 4):
        task = sp.Colorization(
            "timm/resnet10t", decoder="unet", losses={"color_classification": 1.0}, output_stride=stride
        )
        seen = []
        task.decoder.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output.shape))
        output = task(photos)
        output.loss.backward()
        assert output.prediction.shape == (2, 2, 32, 48)
        assert seen == [(2, 313, 32 // stride, 48 // stride)]


def test_a_task_with_a_unet_is_saved_loaded_and_drawn_again(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2))
    for name, encoder in (("named", "timm/resnet10t"), ("module", module)):
        task = unet_task(encoder).eval()
        assert task.options()["decoder"] == "unet"
        images = torch.rand(2, 4, 32, 32)
        task.save_pretrained(tmp_path / name)
        loaded = sp.PretextTask.from_pretrained(tmp_path / name, parts={"encoder": module} if name == "module" else {})
        assert torch.equal(loaded.predict(images), task.predict(images))
        assert torch.equal(loaded.features(images), task.encoder(task.inputs(images)))
        twin = task.untrained(1)
        assert twin.decoder.layers == task.decoder.layers
        assert not torch.allclose(twin.predict(images), task.predict(images))


def test_own_decoders_with_skip_connections():
    class First(SkipDecoder):
        def __init__(self, layers):
            super().__init__(layers)
            self.head = nn.Conv2d(4 + 3, 1, 1)

        def forward(self, features, maps, inputs):
            return self.head(torch.cat([nn.functional.interpolate(maps[0], inputs.shape[-2:]), inputs], dim=1))

    encoder = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 2, stride=2))
    options = {"source": BANDS["a", "b", "c"], "target": BANDS["d"], "encoder": encoder}
    task = sp.create_task("cross_channel", decoder=First(["0"]), **options)
    assert task(torch.rand(2, 4, 8, 8)).prediction.shape == (2, 1, 8, 8)
    task = sp.create_task("cross_channel", decoder=First(["nowhere"]), **options)
    with pytest.raises(UnknownNameError, match="the encoder has no layer 'nowhere'"):
        task(torch.rand(2, 4, 8, 8))


def test_a_split_brain_refuses_a_decoder():
    with pytest.raises(ArgumentError, match="does not take these options: .*'decoder'"):
        sp.create_task("split_brain", first="lab:L", second="lab:ab", encoder="autoencoder", decoder="unet")


def test_sizes_that_no_map_divides():
    encoder = create_encoder("timm/resnet10t", in_channels=3).eval()
    decoder = create_decoder("unet", encoder, measure_encoder(encoder, 3), 2)
    images = torch.rand(1, 3, 37, 51)
    features, maps = output_and_maps(encoder, images, decoder.layers)
    assert decoder(features, maps, images).shape == (1, 2, 37, 51)
