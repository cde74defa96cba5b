"""`fit`: pretraining on Lightning. The only package that knows Lightning."""

from ssl_pretext.errors import MissingDependencyError

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:
    raise MissingDependencyError("fit() trains with Lightning: pip install 'ssl-pretext[train]'") from error

from ssl_pretext.training.run import fit

__all__ = ["fit"]
