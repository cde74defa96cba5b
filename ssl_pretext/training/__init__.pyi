# The public names of the package; `fit` is not among them, because its module has the same name.

from .config import FitConfig as FitConfig
from .lightning_module import PretextModule as PretextModule
