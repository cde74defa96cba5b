"""The documentation: its Python runs, its commands exist, and its map of the code matches the code."""

import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_structure import LAYERS, PACKAGE, ROOT, TESTED_BY

import ssl_pretext
from benchmarks.tutorial_pictures import BARS, draw
from ssl_pretext.cli import main
from ssl_pretext.cli.parsing import parse
from ssl_pretext.probes import ProbeReport
from ssl_pretext.representations import IMAGENET_LABELS
from ssl_pretext.training.config import FitConfig

PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
]
TUTORIAL, MAP = "docs/tutorial.md", "docs/contributing/map.md"
RUN_ELSEWHERE = ("README.md", "docs/cli.md", TUTORIAL)  # test_cli.py and a test below run each of their commands
# What a row of the table in the README shows of a page of results: the columns, with ten labels per class.
AVERAGED = ", averaged over positions"
SHOWN = {
    "cells": [
        "bright and dark field → DNA",
        "bright and dark field → DNA (untrained)",
        "SimCLR",
        "pixels cells:bright field,dark field",
    ],
    "satellite": [
        f"L against ab{AVERAGED}",
        f"L against ab{AVERAGED} (untrained)",
        f"SimCLR{AVERAGED}",
        "pixels rgb",
        IMAGENET_LABELS,
    ],
}
OTHERS = {"bash", "build", "git", "mkdocs", "pip", "pre-commit", "twine"}  # programs that are not ours


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)


def commands(page: str) -> list[list[str]]:
    """The commands of a page, each as a list of words."""
    found = []
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            found += filter(None, (shlex.split(part, comments=True) for part in line.split("&&")))
    return found


def claims(block: str) -> list[str]:
    """The output that comments behind `print` calls claim; a comment that begins with a word is a remark."""
    return re.findall(r"^print\(.*\)  # (?![a-z]+ )(.*)$", block, re.M)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder and few sample photos: the tests check that the code runs, not how well it learns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ssl_pretext.data.samples.MAX_PATCHES", {"train": 14, "test": 4})
    monkeypatch.setattr("ssl_pretext.selection.search.plan_steps", lambda steps, *_: dict.fromkeys(steps, 2))
    monkeypatch.setattr("torch.compile", lambda forward: forward)  # takes minutes; test_gpu.py covers it
    check = FitConfig.__post_init__

    def few_epochs(config: FitConfig) -> None:
        check(config)
        object.__setattr__(config, "epochs", min(config.epochs, 2))

    monkeypatch.setattr(FitConfig, "__post_init__", few_epochs)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL and blocks(page, "python")])
def test_python_runs_as_written_and_prints_what_it_says(page, capsys):
    scope: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)
        printed = capsys.readouterr().out.splitlines()
        assert set(claims(block)) <= set(printed)


def test_claims_are_found_and_remarks_are_not():
    assert claims("x = 1  # one\nprint(x)  # 2\nprint(x)  # shows it\n") == ["2"]


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_ELSEWHERE and commands(page)])
def test_commands_exist(page, monkeypatch, capsys):
    for command in commands(page):
        check_command(command, monkeypatch, capsys)


@pytest.mark.parametrize(
    "wrong",
    [
        "ssl-pretext pretrain --data photos --out runs/first --color",
        "python -m benchmarks.food101 --color",
        "python -m benchmarks.food101 --device=abacus",
        "python -m benchmarks.no_such",
        "sudo pip install it",
    ],
)
def test_a_command_that_does_not_exist_is_refused(wrong, monkeypatch, capsys):
    with pytest.raises((AssertionError, ValueError)):
        check_command(shlex.split(wrong), monkeypatch, capsys)


def check_command(command: list[str], monkeypatch, capsys) -> None:
    """Fails if the program, the module or an option does not exist."""
    program, *arguments = command
    if program in ("python", "torchrun") and "-m" in arguments:
        program, *arguments = arguments[arguments.index("-m") + 1 :]
    if program in ("ssl-pretext", "ssl_pretext.cli"):
        if "--config" in arguments:
            file = Path(arguments[arguments.index("--config") + 1])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("data: photos\nout: run\n")
        parse(arguments)
    elif program.startswith("benchmarks."):
        shown = help_of(program, arguments, monkeypatch, capsys)
        options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        assert options <= set(re.findall(r"--?[a-z0-9-]+", shown)), f"{program} lacks some of {options}"
    else:
        assert program in OTHERS | {"pytest"}, f"the program {program} is not expected on a page"


def help_of(module: str, arguments: list[str], monkeypatch, capsys) -> str:
    """The output of a module for its arguments and `--help`: the arguments are parsed, but nothing runs."""
    found = importlib.util.find_spec(module)
    assert found is not None, f"there is no module {module}"
    file = Path(found.origin)
    file = file.with_name("__main__.py") if file.name == "__init__.py" else file
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert not ended.value.code, f"{module} does not take {arguments}"
    return capsys.readouterr().out


def smaller(command: list[str]) -> list[str]:
    size = {
        "pretrain": ["--epochs", "1", "--encoder", "timm/resnet10t[layer=layer3]"],
        "probe": ["--seeds", "2", "--per-class", "2"],
        "search": ["--tasks", "rotation,colorization", "--encoder", "timm/resnet10t[layer=layer1]"],
        "finetune": ["--seeds", "1", "--per-class", "2", "--epochs", "1"],
    }
    return [*command, *size.get(command[0], [])]


@pytest.mark.usefixtures("elsewhere")
def test_the_tutorial_runs(capsys, monkeypatch):
    """Runs its commands one after another, on fewer photos and for fewer epochs."""
    scripts = scripts_of(TUTORIAL)
    for program, *arguments in commands(TUTORIAL):
        if program == "python":
            monkeypatch.setattr(sys, "argv", arguments)
            exec(compile(scripts.pop(arguments[0]), arguments[0], "exec"), {})
        elif program != "pip":
            assert main(smaller(arguments)) == 0, arguments
    assert not scripts
    assert all(Path(name).is_file() for name in ("colored.png", "features.map.html", "classifier.onnx.json"))
    printed = capsys.readouterr().out.splitlines()
    names = json.loads(Path("classifier.onnx.json").read_text())["output"]["names"]
    assert any(f"class of the photo: {name}" in printed for name in names)
    assert {first_cell(row) for row in tables(TUTORIAL)} - {"the photograph"} <= {first_cell(line) for line in printed}
    draw(Path("runs"), Path("drawn"))
    assert {file.name for file in Path("drawn").iterdir()} == {file.name for file in (ROOT / "docs/pictures").iterdir()}


def scripts_of(page: str) -> dict[str, str]:
    """The Python files of a page, by the name in the title of their block."""
    return dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', (ROOT / page).read_text(), re.S | re.M))


def first_cell(row: str) -> str:
    return row.partition("|")[2].partition("|")[0].strip()


def tables(page: str) -> list[str]:
    return re.findall(r"^\| [^-!].*\|$", (ROOT / page).read_text(), re.M)


@pytest.mark.slow
def test_the_tutorial_as_written(tmp_path):
    """Runs it in a shell at full size: numbers differ a little between machines, but the last verdict does not."""
    for name, code in scripts_of(TUTORIAL).items():
        (tmp_path / name).write_text(code)
    lines = [line for block in blocks(TUTORIAL, "bash") if not block.startswith("pip") for line in block.splitlines()]
    shell = "\n".join(lines).replace("ssl-pretext", f"{sys.executable} -m ssl_pretext.cli")
    shell = re.sub(r"^python ", f"{sys.executable} ", shell, flags=re.M)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SSL_PRETEXT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-e"], input=shell, cwd=tmp_path, env=env, text=True, capture_output=True, check=True
    )
    assert "class of the photo: " in done.stdout


def test_the_tables_of_the_tutorial_match_its_runs():
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(TUTORIAL)]
    for run, found in tutorial_runs().items():
        for row in found["rows"]["linear"]:
            assert [str(value) for value in row.values()] in shown, f"{run}: {row}"


def tutorial_runs() -> dict[str, dict]:
    return json.loads((ROOT / "docs/pictures/tutorial.json").read_text())["runs"]


def test_the_picture_matches_the_tutorial():
    means = {
        f"{100 * row['test_accuracy_mean']:.0f}%"
        for row in tutorial_runs()["first"]["summary"]["linear"]
        if row["representation"] in BARS
    }
    for shape in ("wide", "tall"):
        assert set(re.findall(r">(\d+%)<", (ROOT / f"docs/pictures/idea-{shape}.svg").read_text())) == means


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_shows_every_module_of_every_layer(hooks):
    page = hooks.on_page_markdown((ROOT / MAP).read_text())
    assert hooks.constant("LAYERS") == LAYERS
    assert hooks.constant("TESTED_BY") == TESTED_BY
    assert re.findall(r'<a href="#(\w+)">', page) == [name for layer in LAYERS for name in layer]
    for file in PACKAGE.rglob("[!_]*.py"):
        _, *inside = file.relative_to(PACKAGE).parts
        assert f"`{'/'.join(inside) or file.name}`" in page, file
    assert hooks.on_page_markdown("another page") == "another page"


def test_the_map_names_the_test_of_each_module(hooks):
    page = hooks.on_page_markdown((ROOT / MAP).read_text())
    assert re.search(r"^\| `loader.py` \| .* \| `test_loader.py` \|$", page, re.M)
    assert "Tested by `test_color.py`." in page
    augment = "ssl_pretext.data.samples"
    assert hooks.tested_by("ssl_pretext.data.no_such_module", {}) == ""
    assert hooks.tested_by(augment, {augment: "test_loader.py"}) == "`test_loader.py`"
    assert hooks.tested_by(augment, {augment: "test_missing.py"}) == ""
    table = hooks.description("data", {augment: "test_loader.py"})
    assert re.search(r"^\| `samples.py` \| .* \| `test_loader.py` \|$", table, re.M)


def test_files_that_the_map_names_exist():
    sections = (ROOT / MAP).read_text().partition("## Where is")[2]
    files = re.findall(r"`(?:ssl_pretext/)?((?:\w+/)*\w+\.pyi?)`", sections)
    assert len(files) > 40
    folders = (PACKAGE, ROOT / "tests")
    assert [file for file in files if not any((folder / file).is_file() for folder in folders)] == []


def test_a_module_without_a_docstring_is_refused(hooks, tmp_path):
    (tmp_path / "silent.py").write_text("x = 1\n")
    with pytest.raises(LookupError, match="has no docstring that says what the module is for"):
        hooks.first_line(tmp_path / "silent.py")
    with pytest.raises(LookupError, match="has no NOTHING"):
        hooks.constant("NOTHING")


def test_api_pages_document_names_that_exist_and_every_public_name():
    documented = set()
    for page in (ROOT / "docs/api").glob("*.md"):
        for name, members in re.findall(r"^::: ([\w.]+)$((?:\n +.*)*)", page.read_text(), re.M):
            module = importlib.import_module(name)
            listed = re.findall(r"^ +- (\w+)$", members, re.M) or getattr(module, "__all__", [])
            assert listed, name
            documented |= {getattr(module, member) for member in listed if callable(getattr(module, member))}
    public = {name: getattr(ssl_pretext, name) for name in ssl_pretext.__all__}
    assert [name for name, value in public.items() if callable(value) and value not in documented] == []


def test_links_of_the_readme_work_on_a_package_index():
    """Its links are absolute, and those into this repository lead to files that exist."""
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    for link in links:
        file = re.fullmatch(
            r"https://(?:github\.com/ssl-pretext/ssl_pretext/blob|raw\.githubusercontent\.com/ssl-pretext/ssl_pretext)/main/(.+)",
            link,
        )
        assert file, link
        assert (ROOT / file[1]).is_file(), link


@pytest.mark.parametrize("page", SHOWN)
def test_the_first_pages_show_what_the_results_say(page):
    results = json.loads((ROOT / "docs/results" / page / "results.json").read_text())
    report = ProbeReport.from_dict(results["evidence"]["reports"][""]["10"])
    cells = [report.text(name) for name in SHOWN[page]]
    assert f" | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()
    assert f"{cells[0]}% instead of {cells[1]}% on" in (ROOT / "docs/index.md").read_text()


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == ssl_pretext.__version__
    assert {"message", "title", "authors"} <= citation.keys()
