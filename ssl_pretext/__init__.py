"""Self-supervised pretext tasks that predict image channels from each other, evaluated by probes with controls.

The public names are listed in `__init__.pyi`. Importing this package is fast: each public name is imported when it is
first used, and so are torch, diffusers, timm, torchvision, Lightning and matplotlib.
"""

import lazy_loader

from ssl_pretext.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
