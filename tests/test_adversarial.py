import pytest
import torch
from helpers import small_encoder

from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import create_loss
from ssl_pretext.tasks import Colorization

LOSSES = {"l2": 10.0, "adversarial[width=8]": 0.1}


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_critic_is_trained_by_the_loss_and_not_by_the_optimizer_of_the_task(images):
    torch.manual_seed(0)
    task = Colorization(small_encoder(1), target="lab:ab", losses=LOSSES)
    loss = task.losses.parts[1]
    before = [parameter.clone() for parameter in loss.critic.parameters()]
    assert not any(parameter.requires_grad for parameter in loss.critic.parameters())
    task(images).loss.backward()
    # The last bias shifts all scores equally, so it gets no gradient.
    assert not any(map(torch.equal, before[:-1], loss.critic.parameters()))
    assert all(parameter.grad is None for parameter in loss.critic.parameters())
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
    after = [parameter.clone() for parameter in loss.critic.parameters()]
    with torch.no_grad():
        task(images)
    task.eval()(images)
    assert all(map(torch.equal, after, loss.critic.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_critic_is_trained_in_float32_when_the_task_is_cast(images, dtype):
    task = Colorization(small_encoder(1), target="lab:ab", losses=LOSSES).to(dtype)
    before = [parameter.clone() for parameter in task.losses.parts[1].critic.parameters()]
    task(images.to(dtype)).loss.backward()
    after = list(task.losses.parts[1].critic.parameters())
    assert {parameter.dtype for parameter in after} == {torch.float32}
    assert not any(map(torch.equal, before[:-1], after))


def test_the_critic_separates_predictions_from_targets():
    torch.manual_seed(0)
    loss = create_loss("adversarial", width=8, learning_rate=1e-2)
    real, fake = 0.5 + 0.1 * torch.randn(16, 3, 16, 16), -0.5 + 0.1 * torch.randn(16, 3, 16, 16)
    for _ in range(30):
        loss(fake, real)
    with torch.no_grad():
        assert loss.critic(real).mean() - loss.critic(fake).mean() > 0.5
    with pytest.raises(ArgumentError, match="at least 8×8"):
        loss(fake[..., :4], real[..., :4])
    with pytest.raises(ArgumentError, match="needs positive penalty.*, got penalty=0, learning_rate=0.0001"):
        create_loss("adversarial[penalty=0]")
