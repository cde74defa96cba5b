"""Imports point down, the package loads nothing heavy, and its names are a deliberate list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ssl_pretext

PACKAGE = Path(ssl_pretext.__file__).parent
ROOT = PACKAGE.parent
# From the top down; a module may import those below it, and its own package.
LAYERS = (
    ["cli"],
    ["training"],
    ["probes"],
    ["tasks"],
    ["representations", "quality", "plots", "report"],
    ["losses", "encoders"],
    ["data"],
    ["quantize"],
    ["channels"],
    ["color", "bins", "nearest"],
    ["fitting", "command", "folders"],
    ["registry", "config", "processes"],
    ["memory"],
    ["errors"],
)
HEIGHT = {name: len(LAYERS) - level for level, names in enumerate(LAYERS) for name in names}
HEAVY = [
    "lightning",
    "diffusers",
    "timm",
    "torchvision",
    "torchmetrics",
    "matplotlib",
    "huggingface_hub",
    "scipy",
    "tyro",
]
NAMES = (
    "ChannelSpace Channels ColorHistogram Colorization CrossChannelContrast CrossChannelPrediction Denoising "
    "FitConfig ImageStore ImageStream Inpainting Jigsaw Joined LabelEfficiency Loss MaskedPatches Network Pixels "
    "PretextError PretextTask ProbeReport ProbeTraining RelativePatch Representation Rotation SplitBrain TaskOutput "
    "create_encoder create_loss create_probe create_task evaluate export_encoder fit holdout_split join "
    "label_efficiency list_encoders list_losses list_probes list_tasks load_representation register_encoder "
    "register_loss register_probe register_task sample_photos save_representation"
).split()


def imported(source: str) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ssl_pretext."):
            modules.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            modules |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ssl_pretext.")}
    return modules


def upward(part: str, source: str) -> set[str]:
    return {other for other in imported(source) if other != part and HEIGHT[other] >= HEIGHT[part]}


def test_imports_point_down():
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            assert not upward(part, path.read_text()), f"{path} imports upwards"


def test_an_upward_import_would_be_seen():
    assert upward("color", "from ssl_pretext.tasks import Colorization") == {"tasks"}
    assert upward("losses", "def f():\n    import ssl_pretext.encoders.decoders") == {"encoders"}


def test_importing_loads_nothing_heavy():
    code = "import sys, ssl_pretext; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "torch" in loaded
    assert not {name for name in loaded if name.split(".")[0] in HEAVY}


def test_public_names_are_the_list_and_all_there():
    assert ssl_pretext.__all__ == NAMES == sorted(NAMES)
    assert dir(ssl_pretext) == NAMES
    for name in NAMES:
        assert getattr(ssl_pretext, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'colorize'"):
        _ = ssl_pretext.colorize


def test_the_readme_pretrains_and_probes_in_at_most_ten_lines():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(block.splitlines()) <= 10
    assert "sp.fit(" in block
    assert "sp.evaluate(" in block
