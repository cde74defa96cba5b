"""Datasets and loaders from elsewhere: every form of samples gives the same store, and probes learn the same."""

import os
import pickle
import weakref
from pathlib import Path

import datasets as hf
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms.functional import center_crop, to_pil_image

import ssl_pretext as sp
from ssl_pretext.data import Samples, as_store
from ssl_pretext.data.decode import decode_in_memory
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.probes.targets import KINDS, as_images_with_targets
from ssl_pretext.representations import Pixels

COUNT = 12
PIXELS = torch.randint(0, 256, (COUNT, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = [2, 0, 1] * 4
NAMES = ["cat", "dog", "owl"]
PHOTOS = [to_pil_image(one) for one in PIXELS]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Indexed(Dataset):
    """A map-style dataset of given samples, with names of classes as those of torchvision."""

    classes = NAMES

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


class Iterated(IterableDataset):
    """An iterable dataset of given samples."""

    classes = NAMES

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        return iter(self.samples[worker.id :: worker.num_workers] if worker else self.samples)


class NonGeo(Dataset):
    """The contract of torchgeo's NonGeoDataset: dicts of an `image` of floats, and a `label` or a `mask`."""

    classes = NAMES

    def __init__(self, **targets):
        self.targets = targets

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"image": PIXELS[index].float(), **{name: values[index] for name, values in self.targets.items()}}


def hugging_face(**features) -> hf.Dataset:
    columns = {"image": PHOTOS, "label": LABELS}
    return hf.Dataset.from_dict(columns, hf.Features(image=hf.Image(), label=hf.ClassLabel(names=NAMES)))


PAIRS = list(zip(PIXELS, LABELS, strict=True))
DICTS = [{"image": image, "label": label} for image, label in PAIRS]
SOURCES = {
    "list of pairs": lambda: Indexed(PAIRS),
    "arrays": lambda: Indexed([(image.numpy(), np.int32(label)) for image, label in PAIRS]),
    "photos": lambda: Indexed(list(zip(PHOTOS, LABELS, strict=True))),
    "dicts": lambda: Indexed(DICTS),
    "named keys": lambda: Samples(
        Indexed([{"img": image, "fine": torch.tensor(label), "label": 0} for image, label in PAIRS]), "img", "fine"
    ),
    "named positions": lambda: Samples(Indexed([(label, image) for image, label in PAIRS]), image=1, target=0),
    "iterable": lambda: Iterated(PAIRS),
    "loader": lambda: DataLoader(Indexed(PAIRS), batch_size=5),
    "loader of dicts": lambda: DataLoader(Indexed(DICTS), batch_size=5),
    "loader of an iterable": lambda: DataLoader(Iterated(DICTS), batch_size=5),
    "loader with workers": lambda: DataLoader(Indexed(PAIRS), batch_size=5, num_workers=2),
    "loader of single samples": lambda: DataLoader(Indexed(PAIRS), batch_size=None),
    "lists of dicts": lambda: DataLoader(
        Indexed([{"image": image, "label": label} for image, label in zip(PHOTOS, LABELS, strict=True)]),
        batch_size=5, collate_fn=list,
    ),
    "lists of photos": lambda: DataLoader(
        Indexed(list(zip(PHOTOS, LABELS, strict=True))), batch_size=5,
        collate_fn=lambda batch: tuple(map(list, zip(*batch, strict=True))),
    ),
    "Hugging Face": hugging_face,
    "Hugging Face as tensors": lambda: hugging_face().with_format("torch"),
    "Hugging Face, streaming": lambda: hugging_face().to_iterable_dataset(),
    "loader of Hugging Face": lambda: DataLoader(hugging_face().with_format("torch"), batch_size=5),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_every_form_of_samples_gives_the_same_store(source):
    store = as_store(SOURCES[source]())
    assert torch.equal(store.images(), PIXELS)
    assert store.labels.tolist() == LABELS
    assert store.classes == NAMES
    assert store.sha256 == sp.ImageStore.from_arrays(PIXELS, LABELS, classes=NAMES).sha256


def test_a_store_of_a_dataset_without_a_name_leaves_nothing_behind_and_can_be_pickled(cache):
    store = sp.ImageStore.from_dataset(Indexed(PAIRS))
    assert not [path for path in cache.iterdir() if path.name != ".lock"]
    part = pickle.loads(pickle.dumps(store.subset([3, 1])))
    assert torch.equal(part.images(), PIXELS[[3, 1]])
    assert part.digests() == store.subset([3, 1]).digests()


def test_photos_are_read_like_those_in_files(tmp_path):
    """A rotated photograph, a transparent one and a gray one of several sizes."""
    exif, photos = Image.Exif(), tmp_path / "photos"
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    for name, array, options in (
        ("a/1.jpg", noise[..., :3], {"exif": exif}), ("a/2.png", noise[:30], {}), ("b/3.png", noise[..., 0], {}),
    ):  # fmt: skip
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(photos / name, **options)
    expected = sp.ImageStore.from_folder(photos, image_size=16)
    paths = [photos / name for name in expected.names]
    stored = sp.ImageStore.from_dataset(
        Indexed([(Image.open(path), label) for path, label in zip(paths, [0, 0, 1], strict=True)]), image_size=16
    )
    assert torch.equal(stored.images(), expected.images())
    assert (stored.resize, stored.image_size) == (expected.resize, 16)
    folder = sp.ImageStore.from_dataset(Subset(ImageFolder(photos), [0, 2]), image_size=16)
    assert (folder.classes, folder.labels.tolist()) == (["a", "b"], [0, 1])
    assert torch.equal(folder.images(), expected.images([0, 2]))


def test_torchvision_datasets_and_random_transforms(cache):
    fake = FakeData(5, (3, 8, 8), num_classes=3)
    store = sp.ImageStore.from_dataset(fake)
    assert store.labels.tolist() == [int(label) for _, label in fake]
    assert torch.equal(store.images(), torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) for x, _ in fake]))
    nested = Subset(Subset(Indexed(PAIRS), [4, 5, 6, 7]), [1, 3])
    store = sp.ImageStore.from_dataset(nested)
    assert (store.classes, store.labels.tolist()) == (NAMES, [LABELS[5], LABELS[7]])


def test_images_without_labels():
    for store in (
        sp.ImageStore.from_arrays(PIXELS),
        sp.ImageStore.from_dataset(Indexed(list(PIXELS))),
        sp.ImageStore.from_dataset(Indexed([{"image": one} for one in PIXELS])),
        sp.ImageStore.from_dataset(Indexed(PAIRS), labeled=False),
        sp.ImageStore.from_dataset(torch.utils.data.TensorDataset(PIXELS)),
    ):
        assert (store.classes, store.labels.tolist(), store.targets) == (["unlabeled"], [0] * COUNT, None)
        assert torch.equal(store.images(), PIXELS)


def test_other_targets_than_classes_are_kept_as_they_are():
    masks = torch.randint(-1, 3, (COUNT, 6, 8), generator=torch.Generator().manual_seed(1))
    vectors = torch.rand(COUNT, 4, dtype=torch.float64)
    for given, expected in ((masks, masks), (masks[:, None].float(), masks), (vectors, vectors), (vectors[:, 0],) * 2):
        store = sp.ImageStore.from_dataset(NonGeo(label=given))
        np.testing.assert_array_equal(store.targets, expected)
        assert store.classes == ["unlabeled"]
        np.testing.assert_array_equal(store.subset([3, 1]).targets, expected[[3, 1]])
    unknown = sp.ImageStore.from_dataset(NonGeo(label=torch.tensor([-1, 0, 1] * 4)))
    assert (unknown.labels.tolist(), unknown.classes) == ([-1, 0, 1] * 4, NAMES)
    _, targets = as_images_with_targets(unknown, KINDS["class"])
    assert (targets.values.tolist(), targets.missing) == ([0, 1] * 4, 4)
    times = sp.ImageStore.from_dataset(NonGeo(label=torch.arange(COUNT) + 2**40))
    assert (times.targets.tolist(), times.classes) == ([2**40 + i for i in range(COUNT)], ["unlabeled"])


def evaluated(train, test, **options) -> list[float]:
    report = sp.evaluate({"pixels": Pixels("rgb")}, train, test, seeds=1, controls=False, **options)
    return [report.card["targets"], report.card["names"], *report.values("pixels")]


@pytest.mark.parametrize("kind", ["class", "labels", "numbers", "mask", "map"])
def test_probes_of_datasets_are_those_of_arrays(kind):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, 6, 8), dtype=torch.uint8, generator=generator)
    targets = {
        "class": torch.tensor(LABELS),
        "labels": (images.double().mean(dim=(2, 3)) > 127).long(),
        "numbers": torch.rand(COUNT, generator=generator),
        "mask": torch.tensor(LABELS)[:, None, None].repeat(1, 6, 8),
        "map": torch.rand(COUNT, 2, 6, 8, generator=generator),
    }[kind]
    key = kind if kind in ("mask", "map") else "label"
    expected = evaluated((images, targets), (images, targets), target=kind)
    samples = [{"image": image, key: target, "crs": "a text"} for image, target in zip(images, targets, strict=True)]
    loader = DataLoader(Indexed([{"image": s["image"], key: s[key]} for s in samples]), batch_size=5)
    for train in (Indexed(samples), loader, (Indexed(list(images)), targets)):
        found = evaluated(train, train, target=kind)
        assert found[2] == expected[2]
        assert kind == "class" or found == expected  # classes of the dataset have names
    if kind == "mask":  # as MONAI reads them
        floats = [{"image": s["image"], "mask": s["mask"][None].float()} for s in samples]
        assert evaluated(Indexed(floats), Indexed(floats), target=kind) == expected
        photos = [{"image": s["image"], "mask": Image.fromarray(s["mask"].byte().numpy())} for s in samples]
        assert evaluated(Indexed(photos), Indexed(photos), target=kind)[2] == expected[2]


def test_whole_numbers_may_be_numbers():
    ages = [{"image": image, "age": 20 + i} for i, image in enumerate(PIXELS)]
    _, targets = as_images_with_targets(Samples(ages, target="age"), KINDS["numbers"])
    assert targets.values.flatten().tolist() == [20 + i for i in range(COUNT)]


def test_a_store_with_other_classes_is_not_copied():
    store = sp.ImageStore.from_arrays(PIXELS, LABELS)
    images, targets = as_images_with_targets((store, [0, 1, 255] * 4), KINDS["class"])
    assert images is store
    assert (targets.values.tolist(), len(targets.names)) == ([0, 1, 255] * 4, 256)
    some, targets = as_images_with_targets((store, [-1, 0, 1] * 4), KINDS["class"])
    assert np.shares_memory(some._pixels, store._pixels)
    assert torch.equal(some.images(), PIXELS[torch.arange(COUNT) % 3 != 0])


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ([{"img": PIXELS[0]}], "the samples of list have no image under 'image'; they have 'img'. Name its key"),
        (Samples([{"image": PIXELS[0], "y": 1}], target="z"), "no target under 'z'; they have 'image', 'y'"),
        ([("a", 1)], "image of sample 0 of list cannot be used: an image must be a Pillow image.*got str"),
        ([PIXELS], r"image of sample 0 .* must have shape \(C, H, W\).*got shape \(12, 3, 6, 8\)"),
        ([PAIRS[0], (PIXELS[0, :, :4, :4], 1)], "sample 1 of list has 3 channels of uint8, 4×4 pixels, but the first "
         "sample has 3 channels of uint8, 6×8 pixels; resize the images in the dataset, or pass "),
        ([PAIRS[0], (PIXELS[0].float(), 1)], "sample 1 of list has 3 channels of float"),
        ([(Image.new("I", (2, 2)), 0)], "grayscale with more than 8 bits"),
        ([], "list has no samples"),
        ([(PIXELS[0], ["cat"])], r"the target of sample 0 must be one or several numbers, got \['cat'\]"),
        ([(PIXELS[0], "cat"), (PIXELS[0], 1)], "target of sample 1 is 1, and others are names; .* all be numbers"),
        ([(PIXELS[0], 0), (PIXELS[0], "cat")], "target of sample 1 is 'cat', and others are numbers"),
        ([(PIXELS[0].permute(1, 2, 0).repeat(2, 2, 1), 0)], r"shape \(12, 16, 3\), whose channels seem to be last"),
        ([(PIXELS[0], PIXELS[:2])], r"the target of sample 0 must be a number.*of shape \(2, 3, 6, 8\)"),
        ([(PIXELS[0], 1), (PIXELS[0], 1.0)], "the target of sample 1 of list has the shape .* and dtype float64"),
        ([{"image": PIXELS[0], "label": 1}, {"image": PIXELS[1]}], "sample 1 of list has no target, and others"),
        (Indexed([(PIXELS[0], 3)]), "labels of Indexed must be classes from 0 to 2, or -1 .*from 3 to 3"),
        (DataLoader([(1, 2)] * 4, 2, collate_fn=lambda b: [list(PIXELS[:2]), [1]]), "2 images and 1 targets"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_stored_say_why(source, match, cache):
    with pytest.raises(ArgumentError, match=match):
        as_store(source)
    assert not [path for path in cache.glob("*") if path.name != ".lock"]


def test_names_as_targets_are_classes(cache):
    pairs = [(PIXELS[i], name) for i, name in enumerate(["dog", "cat", "dog", "eel"])]
    for source in (pairs, DataLoader(pairs, batch_size=3), Named(pairs)):
        store = sp.ImageStore.from_dataset(source)
        expected = ["eel", "dog", "cat"] if isinstance(source, Named) else ["cat", "dog", "eel"]
        assert store.classes == expected
        assert [expected[label] for label in store.labels] == ["dog", "cat", "dog", "eel"]
    again = [sp.ImageStore.from_dataset(pairs, name="pets") for _ in range(2)][1]
    assert (again.classes, again.labels.tolist()) == (["cat", "dog", "eel"], [1, 0, 1, 2])


class Named(list):
    """Samples of a dataset that knows its classes, in an order of its own."""

    classes = ("eel", "dog", "cat")


@pytest.mark.parametrize("size", [5, 12])
def test_masks_are_resized_with_their_images(size, cache):
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(20), indexing="ij")
    mask = rows // 10 * 100 + columns // 5
    samples = [{"image": torch.stack([mask] * 3).to(torch.float32), "mask": mask}]
    store = sp.ImageStore.from_dataset(samples, target="mask", image_size=size)
    nearest = torch.nn.functional.interpolate(mask[None, None].float(), (size * 3 // 2, size), mode="nearest-exact")
    expected = center_crop(nearest[0, 0], [size])
    assert store.image_size == size
    np.testing.assert_array_equal(store.targets[0], expected)
    with pytest.raises(ArgumentError, match="mask of sample 0 of list has 15×20 pixels and its image 30×20"):
        sp.ImageStore.from_dataset([samples[0] | {"mask": mask[:15]}], target="mask", image_size=size)


def test_what_is_no_dataset_says_what_to_do():
    with pytest.raises(ArgumentError, match=r"DatasetDict of 'train', 'test' is not .* such as dataset\['train'\]"):
        Samples(hf.DatasetDict(train=hugging_face(), test=hugging_face()))
    with pytest.raises(ArgumentError, match="needs __getitem__ and __len__, or __iter__; got int"):
        Samples(3)
    for size, match in ((10**6, "image_size must be at most"), (0, "image_size must be a whole number of at least 1")):
        with pytest.raises(ArgumentError, match=match):
            Samples([], image_size=size)
    with pytest.raises(ArgumentError, match="the samples of Indexed have none under 'mask'; name their key"):
        sp.evaluate({"p": Pixels("rgb")}, Indexed(DICTS), Indexed(DICTS), target="mask")
    with pytest.raises(TypeError, match="must be a Pillow image"):
        decode_in_memory(None)


class Counted(Dataset):
    """Random images, made when they are read; it counts those that were read and that are in memory at once."""

    def __init__(self, count, side=32, stop=None):
        self.count, self.side, self.stop, self.read, self.alive, self.most = count, side, stop, [], 0, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.stop:
            os._exit(9)
        self.read.append(index)
        image = np.random.default_rng(index).integers(0, 256, (3, self.side, self.side), dtype=np.uint8)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self._freed)
        return {"image": image, "label": index % 7}

    def _freed(self):
        self.alive -= 1


def test_a_killed_build_resumes_and_a_named_store_is_opened_again(cache):
    def build(stop=None):
        dataset = Counted(900, stop=stop)
        return dataset, sp.ImageStore.from_dataset(dataset, name="random")

    child = os.fork()
    if not child:
        build(stop=800)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".part"]
    dataset, store = build()
    assert 100 < dataset.read[0] < 800
    assert dataset.read == list(range(dataset.read[0], 900))
    assert store.sha256 == sp.ImageStore.from_dataset(Counted(900)).sha256
    assert store.labels.tolist() == [i % 7 for i in range(900)]
    dataset, again = build()
    assert dataset.read == []
    assert (again.sha256, again.labels.tolist()) == (store.sha256, store.labels.tolist())
    (targets,) = cache.glob("*/targets.raw")
    damaged = bytearray(targets.read_bytes())
    damaged[8] ^= 1
    targets.write_bytes(damaged)
    with pytest.raises(DataError, match="is damaged; delete that folder .*image 1 has changed"):
        build()
    targets.write_bytes(damaged[:-1])
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        build()


def test_an_iterable_starts_again_and_a_hugging_face_dataset_names_itself(cache):
    def broken():
        yield from PAIRS[:3]
        raise OSError("the network is gone")

    class Broken(Iterated):
        def __iter__(self):
            return broken()

    with pytest.raises(OSError, match="network is gone"):
        sp.ImageStore.from_dataset(Broken(PAIRS), name="pairs")
    store = sp.ImageStore.from_dataset(Iterated(PAIRS), name="pairs")
    assert torch.equal(store.images(), PIXELS)
    first = as_store(hugging_face())
    assert sum(path.is_dir() for path in cache.iterdir()) == 2
    assert Path(first._pixels.filename) == Path(as_store(hugging_face())._pixels.filename)
    assert len(as_store(hugging_face().select(range(4)))) == 4


def test_images_are_read_one_at_a_time():
    dataset = Counted(2_000)
    assert len(sp.ImageStore.from_dataset(dataset)) == 2_000
    assert dataset.most <= 3
