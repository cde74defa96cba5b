import subprocess
import sys
import urllib.error
from functools import partial

import pytest
import torch
from torch import nn

from ssl_pretext.encoders import (
    AutoencoderDecoder,
    AutoencoderEncoder,
    EncoderShape,
    create_decoder,
    create_encoder,
    decoder_for,
    feature_layers,
    feature_maps,
    list_encoders,
    measure_encoder,
)
from ssl_pretext.encoders.from_torchvision import PatchTransformer, TorchvisionEncoder
from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.representations import FrozenNetwork
from ssl_pretext.tasks import CrossChannelPrediction, create_task

CHANNELS, SIZES = (1, 2, 3, 12), (32, 64, 96)
# Small networks of different families that accept images of any size.
ANY_SIZE = """
timm/resnet10t timm/resnetv2_18 timm/regnetx_002 timm/mobilenetv3_small_050 timm/efficientnet_lite0
timm/mixnet_s timm/densenet121 timm/convnext_atto timm/edgenext_xx_small timm/mobilevit_xxs
timm/test_nfnet timm/test_mambaout timm/test_byobnet timm/test_vit timm/test_vit4
timm/vit_tiny_patch16_224 timm/vit_tiny_r_s16_p8_224
timm/swin_tiny_patch4_window7_224[depths=1x1x1x1;embed_dim=48]
torchvision/resnet18 torchvision/squeezenet1_1 torchvision/mobilenet_v3_small torchvision/shufflenet_v2_x0_5
torchvision/mnasnet0_5 torchvision/regnet_y_400mf torchvision/googlenet
""".split()
# Networks that are built for one image size.
ONE_SIZE = """
timm/levit_128s timm/mixer_s32_224 timm/test_maxvit timm/test_coatnet timm/test_vit_relpos
""".split()


def count_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_decoder_fits_a_latent_with_more_channels():
    encoder = create_encoder("autoencoder[latent_channels=32]")
    assert measure_encoder(encoder, 1).channels == 32
    task = CrossChannelPrediction("lab:L", "rgb", encoder, losses={"smooth_l1": 1.0})
    assert task(torch.rand(1, 3, 32, 32)).loss.isfinite()
    assert isinstance(task.decoder, AutoencoderDecoder)


@pytest.mark.usefixtures("published_autoencoder")
def test_the_documented_autoencoder_has_the_published_number_of_parameters():
    encoder = AutoencoderEncoder()
    assert count_parameters(encoder.body) == 533_544
    assert count_parameters(encoder.to_latent) == 36
    assert count_parameters(AutoencoderDecoder()) == 754_051
    shape = measure_encoder(create_encoder("autoencoder"), 1)
    assert (shape.channels, shape.reduction) == (4, 4)
    assert count_parameters(encoder, create_decoder(decoder_for(encoder), encoder, shape, 3)) == 1_287_631


@pytest.mark.parametrize("size", [32, 48])
def test_the_autoencoder_restores_the_size_of_its_input(size):
    encoder = AutoencoderEncoder(in_channels=2)
    latent = encoder(torch.zeros(1, 2, size, size))
    assert latent.shape == (1, 4, size // 4, size // 4)
    assert AutoencoderDecoder(out_channels=5)(latent).shape == (1, 5, size, size)


def test_a_module_is_returned_unchanged():
    encoder = nn.Conv2d(3, 16, 3)
    assert create_encoder(encoder) is encoder
    with pytest.raises(ArgumentError, match="pretrained=True loads the published weights of an encoder by its name"):
        create_encoder(encoder, pretrained=True)


class FixedSize(nn.Module):
    """Adds position embeddings, which fit images of one size only."""

    def __init__(self, channels: int, height: int = 48, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 8, 16, stride=16)
        self.positions = nn.Parameter(torch.randn(1, 8, height // 16, width // 16))

    def forward(self, images):
        return self.patches(images) + self.positions


class WrappedTransformer(nn.Module):
    """A transformer of timm inside of a module, which raises an AssertionError for other sizes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        import timm

        options = {"img_size": 48, "depth": 1, "embed_dim": 24, "num_heads": 2, "in_chans": channels}
        self.body = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)

    def forward(self, images):
        return self.body.forward_intermediates(images, indices=1, intermediates_only=True)[-1]


TASKS_OF_ONE_ENCODER = ["rotation", "jigsaw", "relative_patch", "inpainting", "denoising"]


@pytest.mark.parametrize("kind", [FixedSize, WrappedTransformer])
@pytest.mark.parametrize("task", TASKS_OF_ONE_ENCODER)
def test_an_encoder_states_the_only_size_that_it_takes(kind, task):
    encoder = kind(3)
    with pytest.raises(
        ArgumentError, match=r"does not run on images of shape \(1, 3, 64, 64\): .*encoder.image_size = "
    ):
        create_task(task, encoder=encoder)
    encoder.image_size = 48
    made = create_task(task, encoder=encoder)
    assert made.shape.reduction == 16
    made(torch.rand(2, 3, 48, 48)).loss.backward()
    assert made.features(torch.rand(2, 3, 48, 48)).shape[-2:] == (3, 3)
    message = rf"{kind.__name__} takes only images of 48×48 pixels, .* got 64×64; give image_size=48"
    for call in (made, made.features, FrozenNetwork(encoder).representation().features):
        with pytest.raises(ArgumentError, match=message):
            call(torch.rand(2, 3, 64, 64))


def test_the_only_size_may_be_a_height_and_a_width():
    encoder = FixedSize(3, 32, 64)
    encoder.image_size = (32, 64)
    task = create_task("jigsaw", encoder=encoder)
    task(torch.rand(2, 3, 32, 64)).loss.backward()
    assert feature_layers(encoder, 3) == ["patches"]
    for wrong in ("48", 0, (1, 2, 3)):
        encoder.image_size = wrong
        with pytest.raises(ArgumentError, match="attribute image_size of the encoder FixedSize must be a whole number"):
            measure_encoder(encoder, 3)


def test_measuring_changes_neither_modes_nor_buffers_nor_random_state():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net[2].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    measure_encoder(net, 1)
    assert [part.training for part in net] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_layers_are_in_running_order_and_have_feature_maps():
    encoder = AutoencoderEncoder()
    layers = feature_layers(encoder, 1)
    assert layers.index("body.conv_in") < layers.index("body.down_blocks.0") < layers.index("body.mid_block")
    assert layers.index("body.mid_block") < layers.index("to_latent")
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(feature_maps(encoder, images, ["to_latent"])["to_latent"], encoder(images))
    maps = feature_maps(encoder, images, layers[::-1])
    assert list(maps) == layers[::-1]
    assert {(features.dim(), len(features)) for features in maps.values()} == {(4, 2)}


@pytest.mark.usefixtures("published_autoencoder")
def test_errors_say_what_is_wrong():
    with pytest.raises(UnknownNameError, match="no encoder named 'autoencodr'. Did you mean 'autoencoder'"):
        create_encoder("autoencodr")
    for width, channels in ((1.5, "48, 96, 96"), (0.3, "10, 19, 19"), (0, "0, 0, 0"), (-1, "-32, -64, -64")):
        with pytest.raises(ArgumentError, match=f"width={width} gives the autoencoder {channels} channels, which"):
            create_encoder(f"autoencoder[width={width}]")
    with pytest.raises(ArgumentError, match="latent_channels of the autoencoder must be a whole number of at least 1"):
        create_encoder("autoencoder[latent_channels=0]")
    for width in (0.25, 0.5, 2):
        assert create_encoder(f"autoencoder[width={width}]")(torch.zeros(1, 1, 16, 16)).shape == (1, 4, 4, 4)
    with pytest.raises(ArgumentError, match="an encoder must be a name or an nn.Module instance, got int"):
        create_encoder(3)
    with pytest.raises(ArgumentError, match="does not run on images of shape"):
        measure_encoder(nn.Conv2d(3, 4, 1), 1)
    with pytest.raises(ArgumentError, match=r"returned \(1, 4096\)"):
        measure_encoder(nn.Flatten(), 1)
    with pytest.raises(UnknownNameError, match=r"no layer 'nope'; feature_layers\(\) lists"):
        feature_maps(AutoencoderEncoder(), torch.zeros(1, 1, 32, 32), ["nope"])
    with pytest.raises(ArgumentError, match=r"layer '0' returns no feature map \(B, C, h, w\); feature_layers"):
        feature_maps(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 8, 8))), torch.zeros(1, 1, 8, 8), ["0"])


def test_an_encoder_that_rejects_small_images_is_measured_on_larger_ones():
    net = nn.Conv2d(1, 4, kernel_size=80, stride=32)
    assert measure_encoder(net, 1) == EncoderShape(1, 4, 224 / 5)
    with pytest.raises(ArgumentError, match=r"shape \(1, 1, 64, 64\)"):
        measure_encoder(net, 1, image_size=64)


def check_contract(encoder: nn.Module, channels: int, size: int) -> None:
    """Checks that the output and all layers are feature maps, and that layers come in the order of the request."""
    images = torch.rand(2, channels, size, size)
    layers = feature_layers(encoder, channels)[::-1]
    with torch.no_grad():
        output, maps = encoder.eval()(images), feature_maps(encoder, images, layers)
    assert list(maps) == layers
    assert len(set(layers)) >= 3
    for features in (output, *maps.values()):
        assert (features.dim(), len(features)) == (4, 2)
        assert features.shape[1] > 0
        assert 1 <= features.shape[2] == features.shape[3] <= size
        assert features.isfinite().all()
    assert measure_encoder(encoder, channels).channels == output.shape[1]


def check_training(name: str, size: int) -> None:
    """Checks that a training step gives all parameters a gradient, and the first convolution a nonzero one."""
    task = CrossChannelPrediction("lab:L", "lab:ab", name).train()
    output = task(torch.rand(2, 3, size, size))
    assert output.prediction.shape == (2, 2, size, size)
    output.loss.backward()
    assert not [name for name, part in task.named_parameters() if part.requires_grad and part.grad is None]
    first = next(part for part in task.encoder.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    assert first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ANY_SIZE)
def test_networks_of_other_libraries_take_any_channels_and_size(name):
    torch.manual_seed(0)
    for channels, size in zip(CHANNELS, (*SIZES, 64), strict=True):
        check_contract(create_encoder(name, in_channels=channels), channels, size)
    check_training(name, 64)


@pytest.mark.parametrize("name", ONE_SIZE)
def test_networks_for_one_image_size_can_be_created_for_another(name):
    torch.manual_seed(0)
    for channels, size in zip(CHANNELS, (*SIZES, 64), strict=True):
        check_contract(create_encoder(f"{name}[img_size={size}]", in_channels=channels), channels, size)
    check_training(f"{name}[img_size=64]", 64)
    with pytest.raises(ArgumentError, match="made for 64×64 pixels; use that size, or choose another"):
        create_encoder(f"{name}[img_size=64]", in_channels=1)(torch.zeros(1, 1, 96, 96))


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", "vit_b_16"])
def test_transformers_of_torchvision_return_maps(name):
    encoder = create_encoder(f"torchvision/{name}", in_channels=2)
    for size in SIZES:
        check_contract(encoder, 2, size)
    check_training(f"torchvision/{name}", 64)


def test_the_token_map_equals_the_tokens_of_torchvision():
    """Compares at the original image size, without the class token, and checks images that are not square."""
    import torchvision

    vit = torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48).eval()
    encoder = TorchvisionEncoder("tiny", PatchTransformer(vit), ["layers.encoder_layer_0", "ln"]).eval()
    images = torch.rand(1, 3, 64, 64)
    tokens = []
    vit.encoder.register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    with torch.no_grad():
        vit(images)
        features = encoder(images)
    assert torch.allclose(features.flatten(2).mT, tokens[0][:, 1:], atol=1e-5)
    assert encoder(torch.rand(1, 3, 32, 64)).shape == (1, 24, 2, 4)
    assert encoder(torch.rand(1, 3, 30, 64)).shape == (1, 24, 2, 4)


def test_errors_name_the_image_size_that_a_network_needs():
    inception = create_encoder("torchvision/inception_v3", in_channels=1).eval()
    assert inception(torch.zeros(1, 1, 96, 96)).shape == (1, 2048, 1, 1)
    with pytest.raises(ArgumentError, match="torchvision/inception_v3 does not run on images of shape"):
        inception(torch.zeros(1, 1, 32, 32))
    levit = create_encoder("timm/levit_128s", in_channels=1)
    with pytest.raises(ArgumentError, match=r"made for 224×224 pixels; .*'timm/levit_128s\[img_size=64\]'"):
        levit(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ArgumentError, match="runs neither on images of 64×64 pixels nor on images of 96×96"):
        create_encoder("timm/efficientformer_l1[img_size=96]", in_channels=1)


def test_an_encoder_can_end_at_an_earlier_layer():
    full, shortened = create_encoder("timm/test_resnet"), create_encoder("timm/test_resnet[layer=layer3]")
    assert shortened.layers() == full.layers()[:4] == ["act1", "layer1", "layer2", "layer3"]
    assert count_parameters(shortened) < count_parameters(full)
    shortened.body.load_state_dict(full.body.state_dict(), strict=False)
    images = torch.rand(2, 1, 64, 64)
    assert torch.equal(shortened.eval()(images), feature_maps(full.eval(), images, ["layer3"])["layer3"])
    with pytest.raises(UnknownNameError, match=r"has no layer 'layer9'; its layers: act1, layer1"):
        create_encoder("timm/test_resnet[layer=layer9]")
    with pytest.raises(UnknownNameError, match=r"timm/test_resnet has no layer 'layer9'; its layers: act1"):
        feature_maps(full, images, ["layer1", "layer9"])


def test_errors_name_a_wrong_dtype_or_device():
    encoder = create_encoder("timm/resnet10t").bfloat16()
    with pytest.raises(ArgumentError, match="weights of torch.bfloat16 on cpu and got images of torch.float32 on cpu"):
        encoder(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ArgumentError, match=r"got images of torch.bfloat16 on meta; use .to\(\) to give both"):
        encoder(torch.zeros(1, 1, 64, 64, device="meta", dtype=torch.bfloat16))


def test_options_reach_the_library():
    narrow = create_encoder("timm/resnet10t[channels=16x32x64x128]")
    assert measure_encoder(narrow, 1).channels == 128
    assert measure_encoder(create_encoder("torchvision/mobilenet_v2[width_mult=0.25]"), 1).channels == 1280
    for name in ("timm/resnet10t", "torchvision/resnet18"):
        with pytest.raises(ArgumentError, match=f"{name} does not take these options: .*'wdith'"):
            create_encoder(f"{name}[wdith=2]")
        with pytest.raises(ArgumentError, match=f"in_channels is not an option of the encoder {name}, because"):
            create_encoder(f"{name}[in_channels=2]")
        with pytest.raises(ArgumentError, match=f"pretrained of the encoder '{name}' is true or false, got 'no'"):
            create_encoder(f"{name}[pretrained=no]")
    with pytest.raises(ArgumentError, match="timm/test_vit cannot be created with these options"):
        create_encoder("timm/test_vit[embed_dim=63]")


def test_names_of_other_libraries():
    assert list_encoders()[-2:] == ["timm/*", "torchvision/*"]
    assert "autoencoder" in list_encoders()
    assert "timm/resnet18" in list_encoders("timm/resnet*")
    assert {"timm/resnet18", "torchvision/resnet18"} == set(list_encoders("*/resnet18"))
    assert list_encoders("torchvision/*rcnn*") == []
    with pytest.raises(
        UnknownNameError, match=r"no encoder named 'resnet18'.*named timm/<name> and torchvision/<name>"
    ):
        create_encoder("resnet18")
    with pytest.raises(UnknownNameError, match="timm has no network named 'resnet19'. Did you mean 'resnet1"):
        create_encoder("timm/resnet19")
    with pytest.raises(
        UnknownNameError, match="timm has no weights 'mine' for 'resnet18'; available are .*resnet18.a1_in"
    ):
        create_encoder("timm/resnet18.mine")
    with pytest.raises(UnknownNameError, match="torchvision has no network named 'resnet19'. Did you mean 'resnet1"):
        create_encoder("torchvision/resnet19")


def test_listing_registered_names_imports_no_other_library():
    code = (
        "import sys; from ssl_pretext import list_encoders; list_encoders(); assert list_encoders('auto*');"
        "assert not {'timm', 'torchvision'} & set(sys.modules);"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pretrained_weights_are_adapted_to_the_channels(channels, tmp_path, monkeypatch):
    """One channel gets the sum over RGB. Several channels get the weights of R, G and B in turn, scaled by 3 / n."""
    import timm
    import torchvision

    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    encoder = create_encoder("timm/test_resnet[pretrained=true]", in_channels=channels)
    check_adapted(first_convolution(encoder), first_convolution(model), channels)
    # The other layers have the loaded weights unchanged.
    assert torch.equal(encoder.body.layer4[0].conv1.weight, model.layer4[0].conv1.weight)

    vision = torchvision.models.squeezenet1_1()
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(vision.state_dict(), tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    encoder = create_encoder("torchvision/squeezenet1_1", in_channels=channels, pretrained=True)
    check_adapted(first_convolution(encoder), first_convolution(vision), channels)


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_networks_with_auxiliary_classifiers_take_their_published_weights(name, tmp_path, monkeypatch):
    import torchvision

    vision = torchvision.models.get_model(name, init_weights=False)
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(vision.state_dict(), tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    encoder = create_encoder(f"torchvision/{name}[pretrained=true]", in_channels=3)
    weights = vision.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in encoder.body.state_dict().items())
    assert not any(key.lower().startswith("aux") for key in encoder.body.state_dict())


def test_encoders_can_be_created_where_no_gradients_are_computed():
    with torch.no_grad():
        encoder = create_encoder("timm/resnet10t", in_channels=3)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def first_convolution(module: nn.Module) -> nn.Conv2d:
    return next(part for part in module.modules() if isinstance(part, nn.Conv2d))


def check_adapted(adapted: nn.Conv2d, rgb: nn.Conv2d, channels: int) -> None:
    weight = rgb.weight.double()
    expected = (
        weight.sum(1, keepdim=True) if channels == 1 else weight[:, [i % 3 for i in range(channels)]] * 3 / channels
    )
    assert adapted.in_channels == channels
    assert torch.allclose(adapted.weight.double(), expected, atol=1e-6)


def test_missing_weights_are_an_error(tmp_path, monkeypatch):
    import timm

    def unreachable(*_args, **_options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(
        MissingFileError, match=r"could not be downloaded: .*no network.* Download https://.*resnet18.*\.pth .*hub/ch"
    ):
        create_encoder("torchvision/resnet18", pretrained=True)
    name = min(set(timm.list_models()) - set(timm.list_models(pretrained=True, include_tags=False)))
    with pytest.raises(MissingFileError, match=f"timm has no weights for '{name}'"):
        create_encoder(f"timm/{name}[pretrained=true]")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        MissingFileError, match=r"timm/test_resnet are not on this machine .*huggingface.co/timm/test_resnet"
    ):
        create_encoder("timm/test_resnet[pretrained=true]")
    torch.save({"nonsense": torch.zeros(1)}, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    with pytest.raises(ArgumentError, match="(?s)timm/test_resnet cannot be created with these options: .*Missing key"):
        create_encoder("timm/test_resnet[pretrained=true]")


def smallest_of(module: str) -> str:
    """Returns a small network of one of timm's modules, found by the words that names of small networks contain."""
    import timm

    words = "test_ atto femto pico nano xxt xxs xtiny tiny _xs _t _s small lite0 b0 m0 002 18 26 50".split()
    rank = {word: index for index, word in enumerate(words)}
    names = timm.list_models(module=module)
    return min(names, key=lambda name: (min((rank[w] for w in words if w in name), default=len(words)), len(name)))


@pytest.mark.slow
def test_one_network_of_every_module_of_timm():
    import timm

    failures = {}
    # The smallest of deepseek_vit has 412 million parameters; csatv2 warns that it is made for RGB alone.
    for module in sorted(set(timm.list_modules()) - {"csatv2", "deepseek_vit"}):
        network = f"timm/{smallest_of(module)}"
        made_for = timm.get_pretrained_cfg(network.removeprefix("timm/")).input_size[-1]
        # Its own size is tried last, for networks that neither accept small images nor can be created for them.
        for name, size in ((network, 64), (f"{network}[img_size=64]", 64), (network, made_for)):
            try:
                torch.manual_seed(0)
                check_contract(create_encoder(name, in_channels=3), 3, size)
                check_training(name, size)
                break
            except Exception as error:
                failures[network] = f"{type(error).__name__}: {error}"
        else:
            continue
        failures.pop(network, None)
    assert not failures, "\n".join(f"{name}: {failure}" for name, failure in failures.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maxvit_t", "inception_v3"])
def test_large_networks_of_torchvision_run_at_their_image_size(name):
    check_contract(create_encoder(f"torchvision/{name}", in_channels=2), 2, 224)
    check_training(f"torchvision/{name}", 224)
