"""Self-supervised pretext tasks that predict image channels from one another, judged by probes with controls.

The public names are listed in `__init__.pyi`. Importing this package loads torch and little else: what needs diffusers,
timm, torchvision, Lightning or matplotlib is imported when it is first used.
"""

import lazy_loader

from ssl_pretext.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
