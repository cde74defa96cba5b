# The public names of the package, for type checkers and editors; `__init__.py` imports each of them on first use.

from . import augment as augment
from . import data as data
from . import encoders as encoders
from . import losses as losses
from . import probes as probes
from . import representations as representations
from . import tasks as tasks
from .channels import Channels as Channels
from .channels import ChannelSpace as ChannelSpace
from .data import ImageStore as ImageStore
from .data import ImageStream as ImageStream
from .data import holdout_split as holdout_split
from .data import sample_photos as sample_photos
from .encoders import create_encoder as create_encoder
from .encoders import list_encoders as list_encoders
from .encoders import register_encoder as register_encoder
from .errors import PretextError as PretextError
from .export import export_encoder as export_encoder
from .export import load_representation as load_representation
from .export import save_representation as save_representation
from .losses import Loss as Loss
from .losses import list_losses as list_losses
from .losses import register_loss as register_loss
from .probes import ProbeReport as ProbeReport
from .probes import evaluate as evaluate
from .probes import label_efficiency as label_efficiency
from .probes import list_probes as list_probes
from .probes import register_probe as register_probe
from .representations import FrozenNetwork as FrozenNetwork
from .representations import Pixels as Pixels
from .representations import Representation as Representation
from .selection.search import search as search
from .tasks import Colorization as Colorization
from .tasks import CrossChannelPrediction as CrossChannelPrediction
from .tasks import PretextTask as PretextTask
from .tasks import SplitBrain as SplitBrain
from .tasks import TaskOutput as TaskOutput
from .tasks import create_task as create_task
from .tasks import list_tasks as list_tasks
from .tasks import register_task as register_task
from .training.config import FitConfig as FitConfig
from .training.fit import fit as fit

__version__: str
