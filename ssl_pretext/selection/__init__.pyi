# The public names of the package; `search` is not among them, because its module has the same name.

from .config import SearchConfig as SearchConfig
from .recommendation import Recommendation as Recommendation
from .result import SearchResult as SearchResult
from .result import SearchRow as SearchRow
