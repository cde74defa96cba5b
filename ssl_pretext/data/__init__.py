"""Image data: stores of decoded images, streams of shards, datasets from elsewhere, listings, splits, sample photos."""

from ssl_pretext.data.convert import as_store
from ssl_pretext.data.datasets import Samples
from ssl_pretext.data.listing import Listing, list_folder, list_food101
from ssl_pretext.data.samples import EXCLUDED_PHOTOS, load_photo, sample_photos
from ssl_pretext.data.shards import are_shards
from ssl_pretext.data.splits import holdout_split
from ssl_pretext.data.store import ImageStore
from ssl_pretext.data.stream import ImageStream

__all__ = [
    "EXCLUDED_PHOTOS",
    "ImageStore",
    "ImageStream",
    "Listing",
    "Samples",
    "are_shards",
    "as_store",
    "holdout_split",
    "list_folder",
    "list_food101",
    "load_photo",
    "sample_photos",
]
