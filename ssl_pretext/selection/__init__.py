"""Selection of a pretext task: `search` tries several within a time, and recommends one or something cheaper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
