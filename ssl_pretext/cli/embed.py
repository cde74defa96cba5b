"""The command `ssl-pretext embed`, which writes a feature vector for each image, and a page with a map of them."""

import logging
from itertools import islice

from ssl_pretext.cli.networks import Network, check_channels, choose_image_size, open_network
from ssl_pretext.cli.options import Embed, label_columns
from ssl_pretext.data import ImageStore, ImageStream, are_shards
from ssl_pretext.data.folder_options import few_images
from ssl_pretext.data.shards import find_shards, is_remote
from ssl_pretext.data.tables import read_table
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.embedding import embed
from ssl_pretext.representations.embedding_map import check_map, embedding_page, sample_rows
from ssl_pretext.representations.embedding_run import card_file, embed_to_file
from ssl_pretext.representations.feature_files import check_format
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_text
from ssl_pretext.system.processes import rank_info

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(options: Embed) -> None:
    """Writes the features, their names and their card, and the map if it was asked for.

    Raises:
        PretextError: The network or the images cannot be loaded, or an option is invalid.
    """
    check_format(options.out)
    if options.map is not None:
        check_map(options.map)
    device = resolve_device(options.device)
    network = open_network(options.network, layer=options.layer, pooling=options.pooling)
    size = choose_image_size(options.image_size, [network])
    images = _open_images(options, network, size)
    log.info("%s images of %s px from %s", f"{len(images):,}", size, options.data)
    settings = {"options": options.to_dict()}
    embed_to_file(
        network.representation,
        images,
        options.out,
        settings=settings,
        device=device,
        precision=options.precision,
        memory_format=options.memory_format,
    )
    if rank_info().rank == 0:
        _report(options, network, images, device)


def _open_images(options: Embed, network: Network, size: int) -> ImageStore | ImageStream:
    if are_shards(options.data):
        if options.labels is not None:
            raise ArgumentError(f"--labels is for folders only, and {options.data} are shards; leave the option out")
        arguments = options.images.of_shards(options.data)
        if remote := [shard for shard in find_shards(options.data) if is_remote(shard)]:
            raise ArgumentError(f"embed reads shards on local disks, and {remote[0]} is a URL; copy the shards first")
        stream = ImageStream(
            options.data, image_size=size, image_field=options.image_field, cache=options.cache, **arguments
        )
        check_channels([network], options.data, islice(stream.read(seed=None, epoch=0, rank=0, world=1), 1))
        return stream
    if options.image_field is not None:
        raise ArgumentError(f"--image-field is for shards only, and {options.data} is a folder; leave the option out")
    if options.columns is not None and options.labels is None:
        raise ArgumentError("--columns is for the table of --labels; name the table, or leave the option out")
    columns = label_columns(options.columns)
    table = None if options.labels is None else read_table(options.labels, columns, "class")
    check_channels([network], options.data, few_images(options.data, table, **options.images.arguments()))
    arguments = {"image_size": size, "cache": options.cache, **options.images.arguments()}
    if table is not None:
        return ImageStore.from_table(table, options.data, **arguments)
    return _labeled_by_folders(ImageStore.from_folder(options.data, labeled=False, **arguments))


def _labeled_by_folders(images: ImageStore) -> ImageStore:
    """Labels images by the first folder in their names if all of them are in folders."""
    folders = [name.partition("/")[0] if "/" in name else None for name in images.names]
    if images.classes == ["unlabeled"] and None not in folders:
        images.classes = sorted({folder for folder in folders if folder is not None})
        images.labels = images.labels.new_tensor([images.classes.index(str(folder)) for folder in folders])
    return images


def _report(options: Embed, network: Network, images: ImageStore | ImageStream, device: str) -> None:
    """Logs what was written, and writes the page."""
    card = read_json(card_file(options.out))
    skipped = f"; unreadable and skipped: {len(card['skipped'])}" if card["skipped"] else ""
    log.info("%s: %s images with %s features%s", options.out, f"{card['images']:,}", f"{card['features']:,}", skipped)
    if options.map is None:
        return
    sample = images.sample() if isinstance(images, ImageStream) else images
    sample = sample.subset(sample_rows(len(sample)))
    # Computed again, which takes seconds, so that the file need not be read into memory.
    found = embed(network.representation, sample, device=device)
    title = f"{network.name} on {options.data}"
    page = options.out.with_suffix(".map.html")
    write_text(page, embedding_page(found, sample, kind=options.map, title=title, total=card["images"]))
    log.info("map: %s", page)
