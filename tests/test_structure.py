"""Imports point down, nothing imports in a circle, the wings stay apart, and public names are a deliberate list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REGISTRIES
from structure import cycles, graph_of, imported, reachable, read_sources

import ssl_pretext

PACKAGE = Path(ssl_pretext.__file__).parent
ROOT = PACKAGE.parent
MAP = ROOT / "docs/contributing/map.md"
# From the top down; a part may import those below it, and itself.
LAYERS = (
    ["cli"],
    ["export", "monitoring", "selection"],
    ["training", "probes"],
    ["tasks", "color_metrics"],
    ["losses"],
    ["representations"],
    ["encoders", "quantize"],
    ["regularizers", "saving", "reporting", "band_statistics"],
    ["data"],
    ["augment"],
    ["channels"],
    ["color"],
    ["system"],
    ["registry", "config", "arguments", "channel_specs", "spacing"],
    ["errors", "version"],
)
HEIGHT = {name: len(LAYERS) - level for level, names in enumerate(LAYERS) for name in names}
PRETRAINING = ("training", "tasks", "losses")
JUDGING = ("probes", "representations")
HEAVY = [
    "torch",
    "lightning",
    "diffusers",
    "timm",
    "torchvision",
    "torchmetrics",
    "matplotlib",
    "huggingface_hub",
    "scipy",
    "tyro",
    "tifffile",
    "rasterio",
    "nibabel",
    "pydicom",
    "h5py",
    "zarr",
]
MOST_NAMES = 42
# The tests of modules that have no test file of their own stem.
TESTED_BY = {
    "ssl_pretext.augment.augmentation": "test_augment.py",
    "ssl_pretext.augment.geometry": "test_augment.py",
    "ssl_pretext.augment.keyed_random": "test_augment.py",
    "ssl_pretext.augment.photometric": "test_augment.py",
    "ssl_pretext.augment.steps": "test_augment.py",
    "ssl_pretext.cli.__main__": "test_docs.py",
    "ssl_pretext.cli.cache": "test_cached_stores.py",
    "ssl_pretext.cli.files": "test_cli.py",
    "ssl_pretext.cli.jobs": "test_colorize.py",
    "ssl_pretext.cli.judging": "test_cli.py",
    "ssl_pretext.cli.model_cards": "test_cli.py",
    "ssl_pretext.cli.names": "test_cli.py",
    "ssl_pretext.cli.networks": "test_compare.py",
    "ssl_pretext.cli.options": "test_parsing.py",
    "ssl_pretext.cli.pretrain": "test_cli.py",
    "ssl_pretext.cli.probe": "test_cli.py",
    "ssl_pretext.cli.push": "test_formats.py",
    "ssl_pretext.data.build": "test_data.py",
    "ssl_pretext.data.chatter": "test_readers.py",
    "ssl_pretext.data.columns": "test_tables.py",
    "ssl_pretext.data.convert": "test_datasets.py",
    "ssl_pretext.data.dataset_store": "test_datasets.py",
    "ssl_pretext.data.decode": "test_nasty_files.py",
    "ssl_pretext.data.expand": "test_tiles.py",
    "ssl_pretext.data.folder_options": "test_data.py",
    "ssl_pretext.data.opening": "test_tiles.py",
    "ssl_pretext.data.preview": "test_notebook.py",
    "ssl_pretext.data.readers.axes": "test_readers.py",
    "ssl_pretext.data.readers.base": "test_readers.py",
    "ssl_pretext.data.readers.dicom": "test_readers.py",
    "ssl_pretext.data.readers.nifti": "test_readers.py",
    "ssl_pretext.data.readers.raster": "test_readers.py",
    "ssl_pretext.data.readers.registry": "test_readers.py",
    "ssl_pretext.data.readers.tiff": "test_readers.py",
    "ssl_pretext.data.resizing": "test_tiles.py",
    "ssl_pretext.data.samples": "test_data.py",
    "ssl_pretext.data.shards": "test_stream.py",
    "ssl_pretext.data.store": "test_data.py",
    "ssl_pretext.data.stream_loader": "test_stream.py",
    "ssl_pretext.encoders.autoencoder": "test_encoders.py",
    "ssl_pretext.encoders.from_timm": "test_encoders.py",
    "ssl_pretext.encoders.from_torchvision": "test_encoders.py",
    "ssl_pretext.encoders.inspection": "test_encoders.py",
    "ssl_pretext.encoders.map_encoder": "test_encoders.py",
    "ssl_pretext.encoders.registry": "test_encoders.py",
    "ssl_pretext.errors": "test_nothing_lost.py",
    "ssl_pretext.export.classifier": "test_finetune.py",
    "ssl_pretext.export.encoder": "test_export.py",
    "ssl_pretext.export.native": "test_export.py",
    "ssl_pretext.export.representation": "test_representations.py",
    "ssl_pretext.losses.base": "test_losses.py",
    "ssl_pretext.losses.lab_classification": "test_classification.py",
    "ssl_pretext.losses.pixel": "test_losses.py",
    "ssl_pretext.probes.comparison": "test_protocol.py",
    "ssl_pretext.probes.conv": "test_probes.py",
    "ssl_pretext.probes.efficiency": "test_probes.py",
    "ssl_pretext.probes.evaluation": "test_probes.py",
    "ssl_pretext.probes.finetuning_time": "test_time_estimate.py",
    "ssl_pretext.probes.given": "test_probes.py",
    "ssl_pretext.probes.merging": "test_probes.py",
    "ssl_pretext.probes.options": "test_probes.py",
    "ssl_pretext.probes.problem": "test_targets.py",
    "ssl_pretext.probes.registry": "test_probes.py",
    "ssl_pretext.probes.report": "test_probes.py",
    "ssl_pretext.probes.report_plots": "test_probes.py",
    "ssl_pretext.probes.resnet": "test_probes.py",
    "ssl_pretext.probes.results": "test_per_class.py",
    "ssl_pretext.probes.segmentation": "test_targets.py",
    "ssl_pretext.reporting.template": "test_page.py",
    "ssl_pretext.representations.base": "test_representations.py",
    "ssl_pretext.representations.extraction": "test_representations.py",
    "ssl_pretext.representations.feature_files": "test_embedding.py",
    "ssl_pretext.representations.network": "test_representations.py",
    "ssl_pretext.representations.owner": "test_embedding.py",
    "ssl_pretext.saving.contract": "test_hostile_checkpoints.py",
    "ssl_pretext.saving.memory_limit": "test_hostile_checkpoints.py",
    "ssl_pretext.saving.weights": "test_tasks.py",
    "ssl_pretext.selection.config": "test_search.py",
    "ssl_pretext.selection.result": "test_search.py",
    "ssl_pretext.selection.trial": "test_search.py",
    "ssl_pretext.system.team": "test_processes.py",
    "ssl_pretext.tasks.barlow_twins": "test_joint_embedding.py",
    "ssl_pretext.tasks.base": "test_every_task.py",
    "ssl_pretext.tasks.checkpoint": "test_tasks.py",
    "ssl_pretext.tasks.colorization": "test_tasks.py",
    "ssl_pretext.tasks.cross_channel": "test_tasks.py",
    "ssl_pretext.tasks.denoising": "test_masks.py",
    "ssl_pretext.tasks.heads": "test_patches.py",
    "ssl_pretext.tasks.inpainting": "test_masks.py",
    "ssl_pretext.tasks.instance_contrast": "test_joint_embedding.py",
    "ssl_pretext.tasks.jigsaw": "test_patches.py",
    "ssl_pretext.tasks.model_card": "test_export.py",
    "ssl_pretext.tasks.relative_patch": "test_patches.py",
    "ssl_pretext.tasks.simsiam": "test_joint_embedding.py",
    "ssl_pretext.tasks.split_brain": "test_tasks.py",
    "ssl_pretext.tasks.two_encoders": "test_tasks.py",
    "ssl_pretext.tasks.vicreg": "test_joint_embedding.py",
    "ssl_pretext.training.config": "test_training.py",
    "ssl_pretext.training.feature_check": "test_collapse.py",
    "ssl_pretext.training.fit": "test_training.py",
    "ssl_pretext.training.lightning_module": "test_training.py",
    "ssl_pretext.training.page_callbacks": "test_run_page.py",
    "ssl_pretext.version": "test_structure.py",
}
SOURCES = read_sources(PACKAGE)
GRAPH = graph_of(SOURCES)


def part_of(module):
    """The part of the package that a module belongs to: `tasks` for `ssl_pretext.tasks.jigsaw`, the root for itself."""
    return [*module.split("."), ""][1]


def upward(graph):
    """Imports that do not point down, as pairs of modules; the root may import anything, and nothing imports it."""
    return [
        (module, other)
        for module, others in graph.items()
        for other in others
        if part_of(module)
        and part_of(module) != part_of(other)
        and (not part_of(other) or HEIGHT[part_of(other)] >= HEIGHT[part_of(module)])
    ]


def of_parts(graph, parts):
    return {module for module in graph if part_of(module) in parts}


def across(graph):
    """What one wing imports of the other, directly or by way of other modules."""
    pretraining, judging = of_parts(graph, PRETRAINING), of_parts(graph, JUDGING)
    kept_from_pretraining = of_parts(graph, ["probes"]) | {"ssl_pretext.representations.cache"}
    return reachable(graph, judging) & pretraining | reachable(graph, pretraining) & kept_from_pretraining


def changed(module, line):
    """The graph of the package with one more line in a module."""
    assert module in SOURCES
    return graph_of({**SOURCES, module: f"{SOURCES[module]}\n{line}\n"})


def test_every_part_has_its_layer():
    assert {part_of(module) for module in SOURCES} - {""} == set(HEIGHT)


def test_imports_point_down():
    assert not upward(GRAPH)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ssl_pretext.color", "from ssl_pretext.tasks import Colorization"),
        ("ssl_pretext.color", "from ssl_pretext import tasks"),
        ("ssl_pretext.color", "import ssl_pretext.tasks.jigsaw as jigsaw"),
        ("ssl_pretext.color", "from .tasks import Colorization"),
        ("ssl_pretext.color", "import ssl_pretext as sp"),
        ("ssl_pretext.losses.pixel", "def f():\n    from ssl_pretext.tasks.heads import PooledHead"),
        (
            "ssl_pretext.data.store",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssl_pretext import fit",
        ),
    ],
)
def test_an_upward_import_is_seen(module, line):
    assert module in {importer for importer, _ in upward(changed(module, line))}


def test_no_file_imports_itself_by_way_of_others():
    assert not cycles(GRAPH)
    assert not cycles(graph_of(read_sources(ROOT / "benchmarks")))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ssl_pretext.tasks.heads", "from ssl_pretext.tasks.jigsaw import Jigsaw"),
        ("ssl_pretext.tasks.heads", "from ssl_pretext.tasks import jigsaw"),
        ("ssl_pretext.tasks.heads", "from ssl_pretext.tasks import Jigsaw"),
        ("ssl_pretext.tasks.heads", "from . import Jigsaw"),
        ("ssl_pretext.tasks.heads", "def late():\n    from .jigsaw import Jigsaw"),
        ("ssl_pretext.color", "from ssl_pretext.channels import Channels"),
    ],
)
def test_a_circle_is_seen(module, line):
    assert any(module in group for group in cycles(changed(module, line)))


def test_the_wings_are_apart():
    assert not across(GRAPH)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ssl_pretext.probes.linear", "from ssl_pretext.tasks import PretextTask"),
        ("ssl_pretext.representations.base", "from ssl_pretext.losses import Loss"),
        ("ssl_pretext.training.fit", "from ssl_pretext.probes import evaluate"),
        ("ssl_pretext.tasks.base", "from ssl_pretext.representations.cache import Cache"),
        ("ssl_pretext.representations.extraction", "from ssl_pretext.representations.cache import Cache"),
    ],
)
def test_a_way_from_wing_to_wing_is_seen(module, line):
    assert across(changed(module, line))


def test_names_of_a_package_are_followed_to_their_file():
    found = imported("x", {**SOURCES, "x": "from ssl_pretext.probes import evaluate\nfrom ssl_pretext import fit"})
    assert {"ssl_pretext.probes.evaluation", "ssl_pretext.training.fit"} <= found


def loaded_after(code):
    command = [sys.executable, "-W", "error", "-c", f"import sys; {code}; print(*sys.modules)"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()


def test_importing_loads_nothing_heavy():
    loaded = {name.split(".")[0] for name in loaded_after("import ssl_pretext")}
    assert "ssl_pretext" in loaded
    assert not loaded & {*HEAVY}
    used = {name.split(".")[0] for name in loaded_after("import ssl_pretext; ssl_pretext.ChannelSpace")}
    assert "torch" in used
    assert not used & {*HEAVY} - {"torch"}


def test_the_configuration_of_training_needs_no_lightning():
    assert "lightning" not in loaded_after("from ssl_pretext import FitConfig")


def test_public_names_are_few_and_all_there():
    names = ssl_pretext.__all__
    assert names == sorted(set(names))
    assert len(names) <= MOST_NAMES
    assert dir(ssl_pretext) == names
    for name in names:
        assert getattr(ssl_pretext, name).__doc__
    assert re.fullmatch(r"\d+\.\d+\.\d+", ssl_pretext.__version__)
    with pytest.raises(AttributeError, match="colorize"):
        _ = ssl_pretext.colorize


def registries_of(source):
    """Names of the module-level registries that a module makes."""
    found = []
    for node in ast.parse(source).body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "Registry":
            found.append(ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target))
    return found


def test_every_registry_is_given_back_after_a_test():
    made = [name for source in SOURCES.values() for name in registries_of(source)]
    assert len(made) == len(set(made)) == len(REGISTRIES)
    assert registries_of('KINDS: Registry[int] = Registry("kind")\nMORE = Registry("more")') == ["KINDS", "MORE"]


def untested(modules, tested_by):
    """Modules that have neither a test file of their stem nor one that is named for them, or a name too many."""
    stems = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    found = []
    for module in modules:
        stem = module.rpartition(".")[2]
        if f"test_{stem}" in stems and module not in tested_by:
            continue
        if not any((ROOT / "tests" / file).is_file() for file in [tested_by.get(module, "-")]):
            found.append(module)
    return found + sorted(tested_by.keys() - set(modules))


def test_every_module_has_its_test():
    modules = [module for module in SOURCES if not (PACKAGE.parent / module.replace(".", "/")).is_dir()]
    assert not untested(modules, TESTED_BY)
    assert untested(["ssl_pretext.new"], {}) == ["ssl_pretext.new"]
    assert untested([], {"ssl_pretext.gone": "test_color.py"}) == ["ssl_pretext.gone"]


def documented():
    """The modules that the API pages document."""
    pages = (page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    return {module for page in pages for module in re.findall(r"^::: (ssl_pretext[\w.]*)", page, re.M)}


def excepted():
    """Other modules that the benchmarks may import, as the map of the code names them with a reason."""
    section = MAP.read_text().partition("## What the benchmarks import")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(ssl_pretext[\w.]*)` \| .{20,} \|$", section, re.M))


def hidden(source, known):
    """Modules of the package that a source imports and that are not known."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssl_pretext"):
            found.add(node.module)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("ssl_pretext")}
    return found - known


def test_benchmarks_import_public_modules():
    known = documented() | excepted() | {"ssl_pretext"}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not hidden(path.read_text(), known), path
    assert hidden("from ssl_pretext.data.staging import Staging", known) == {"ssl_pretext.data.staging"}


def test_the_readme_pretrains_and_probes_in_at_most_ten_lines():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(block.splitlines()) <= 10
    assert "sp.fit(" in block
    assert "sp.evaluate(" in block
