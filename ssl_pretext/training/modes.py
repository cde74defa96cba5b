"""The mode of a task during training: train mode, apart from the parts that were frozen on purpose."""

from torch import nn

from ssl_pretext.losses import Loss

__all__ = ["set_train_mode"]


def set_train_mode(task: nn.Module) -> None:
    """Puts a task in train mode, in whatever mode it was loaded or left, apart from frozen parts.

    A part stays in eval mode if it is in eval mode, has parameters, and none of them requires gradients: its BatchNorm
    statistics stay as they are. Losses are not such parts, because some train a network of their own in train mode.

    Args:
        task: The task, or another module.

    Examples:
        >>> network = nn.Sequential(nn.BatchNorm2d(2).requires_grad_(False), nn.BatchNorm2d(2)).eval()
        >>> set_train_mode(network)
        >>> network[0].training, network[1].training
        (False, True)
    """
    frozen = [part for part in task.modules() if _is_frozen(part)]
    task.train()
    for part in frozen:
        part.eval()


def _is_frozen(part: nn.Module) -> bool:
    parameters = list(part.parameters())
    return (
        not part.training
        and bool(parameters)
        and not any(parameter.requires_grad for parameter in parameters)
        and not any(isinstance(inner, Loss) for inner in part.modules())
    )
