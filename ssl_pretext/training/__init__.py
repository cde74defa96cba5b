"""Pretraining: `fit`, which trains with Lightning, and its configuration, which does not need Lightning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
