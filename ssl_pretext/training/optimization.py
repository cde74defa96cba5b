"""The optimizer of a run, the course of its learning rate, and the recomputation of activations."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from ssl_pretext.encoders.layer_decay import layer_decay_groups
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import did_you_mean, parse_spec
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.config import FitConfig

__all__ = ["check_optimization", "create_optimizer", "create_schedule", "gradient_checkpointing"]


def create_optimizer(task: PretextTask, config: FitConfig) -> Optimizer:
    """Creates the optimizer of the parameters that require gradients.

    Args:
        task: The task to train.
        config: Configuration of the run: `optimizer`, `learning_rate`, `weight_decay` and `layer_decay`.

    Raises:
        UnknownNameError: There is no such optimizer.
        ArgumentError: The optimizer does not take its options, or `layer_decay` does not fit the encoder.

    Examples:
        >>> import ssl_pretext as sp
        >>> config = sp.FitConfig(out="runs/first", optimizer="sgd[momentum=0.5]", learning_rate=0.1)
        >>> create_optimizer(sp.create_task("colorization", encoder="autoencoder"), config)  # doctest: +ELLIPSIS
        SGD (...
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    name, options = parse_spec(config.optimizer)
    names = list_optimizers()
    if name.lower() not in names:
        raise UnknownNameError(
            f"there is no optimizer named {name!r}.{did_you_mean(name.lower(), names)} timm.optim.list_optimizers() "
            "lists all names"
        )
    info = get_optimizer_info(name)
    if info.second_order:
        raise ArgumentError(
            f"the optimizer {name!r} needs second derivatives, which fit() does not compute; choose another one"
        )
    if reserved := sorted(options.keys() & {"lr", "weight_decay"}):
        raise ArgumentError(
            f"{', '.join(reserved)} cannot be an option of the optimizer {name!r}; use learning_rate and weight_decay"
        )
    for option, is_taken in (("betas", info.has_betas), ("eps", info.has_eps)):
        if option in options and not is_taken:  # timm would ignore it
            raise ArgumentError(f"the optimizer {name!r} takes no {option}; remove it")
    arguments: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, **options}
    if isinstance(betas := options.get("betas"), str):  # such as "0.9+0.95"; specs have no tuples
        try:
            arguments["betas"] = tuple(map(float, betas.split("+")))
        except ValueError:
            raise ArgumentError(f"betas must be numbers such as 0.9+0.95, got {betas!r}") from None
    groups = _parameter_groups(task, config)
    try:
        return cast(Optimizer, create_optimizer_v2(groups, name, **arguments))
    # timm asserts that a GPU is there, and optimizers raise nearly anything on a wrong option.
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        raise ArgumentError(f"the optimizer {config.optimizer!r} cannot be created: {error}") from error


def create_schedule(optimizer: Optimizer, config: FitConfig, steps: float) -> LambdaLR:
    """Creates the scheduler of the learning rate, which is to be called after every step of the optimizer.

    Args:
        optimizer: The optimizer.
        config: Configuration of the run: `schedule` and `warmup`.
        steps: Number of optimizer steps of the run; infinity if it is unknown, which needs a constant rate.

    Raises:
        ArgumentError: The schedule needs to know the number of steps, or does not fit the learning rate.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import ssl_pretext as sp
        >>> optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = create_schedule(optimizer, sp.FitConfig(out="runs/first", schedule="linear", warmup=0.2), 10)
        >>> rates = []
        >>> for _ in range(10):
        ...     rates += scheduler.get_last_lr()
        ...     optimizer.step()
        ...     scheduler.step()
        >>> [round(rate, 4) for rate in rates]
        [0.0, 0.05, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125]
    """
    from diffusers.optimization import get_scheduler

    known = steps != float("inf")
    if not known and config.schedule is not None and (config.schedule, config.warmup) != ("constant", 0):
        raise ArgumentError(
            f"the schedule {config.schedule!r} with warmup={config.warmup:g} needs to know the number of steps, which "
            "these images do not tell; set max_steps, or use schedule='constant' and warmup=0"
        )
    name, options = parse_spec(config.schedule or ("cosine" if known else "constant"))
    rising = round(config.warmup * steps) if known else 0
    if name == "constant" and rising:
        name = "constant_with_warmup"
    try:
        schedule = get_scheduler(name, optimizer, num_warmup_steps=rising, num_training_steps=steps, **options)
        return cast(LambdaLR, schedule)
    except ValueError as error:  # polynomial, with a learning rate that is below its end
        raise ArgumentError(f"the schedule {name!r} cannot start from {config.learning_rate:g}: {error}") from error


def check_optimization(task: PretextTask, config: FitConfig, *, steps_known: bool) -> None:
    """Checks that the optimizer and the schedule can be created, before a run writes its first file.

    Args:
        task: The task to train.
        config: Configuration of the run.
        steps_known: Whether the number of optimizer steps is known before the run.

    Raises:
        UnknownNameError: There is no such optimizer.
        ArgumentError: The optimizer or the schedule cannot be created, or the encoder does not support `layer_decay` or
            `gradient_checkpointing`.
    """
    create_schedule(create_optimizer(task, config), config, 100 if steps_known else float("inf"))
    if config.gradient_checkpointing:
        with gradient_checkpointing(task):
            pass


@contextmanager
def gradient_checkpointing(task: PretextTask) -> Iterator[None]:
    """Lets the networks of timm and diffusers in a task compute their activations again in the backward pass.

    Args:
        task: The task.

    Raises:
        ArgumentError: An encoder of the task does not support this.
    """
    for encoder in _encoders(task):
        if not any(_can_checkpoint(module) for module in encoder.modules()):
            raise ArgumentError(
                f"gradient_checkpointing needs an encoder of timm that supports it or the autoencoder, got "
                f"{task.encoder_name or type(encoder).__name__}; leave it out, or choose another encoder"
            )
    able: list[Any] = [module for module in task.modules() if _can_checkpoint(module)]
    try:
        try:
            for module in able:
                _set_checkpointing(module, True)
        except AssertionError as error:  # of timm, from networks that have the method only to say no
            raise ArgumentError(f"{task.encoder_name} does not support gradient_checkpointing: {error}") from error
        yield
    finally:
        for module in able:
            _set_checkpointing(module, False)


def _can_checkpoint(module: Any) -> bool:
    return callable(getattr(module, "set_grad_checkpointing", None)) or hasattr(module, "gradient_checkpointing")


def _set_checkpointing(module: Any, enabled: bool) -> None:
    if callable(getattr(module, "set_grad_checkpointing", None)):  # timm
        module.set_grad_checkpointing(enabled)
    else:  # a block of diffusers; newer versions need the function, which their own models would set
        module.gradient_checkpointing = enabled
        module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def _parameter_groups(task: PretextTask, config: FitConfig) -> list[Any]:
    """The trained parameters; with `layer_decay`, groups of them with a learning rate of their own."""
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    if config.layer_decay == 1:
        return trained
    groups = layer_decay_groups(
        _encoders(task),
        layer_decay=config.layer_decay,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    others = [parameter for parameter in trained if id(parameter) not in grouped]
    return [*groups, *([{"params": others}] if others else [])]


def _encoders(task: PretextTask) -> list[nn.Module]:
    return list(task.encoder) if isinstance(task.encoder, nn.ModuleList) else [task.encoder]
