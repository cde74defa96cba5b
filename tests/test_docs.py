"""The documentation: its Python runs, its commands exist, and the map of the code is that of the code."""

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
from test_structure import LAYERS, PACKAGE, ROOT

from benchmarks.tutorial_pictures import draw
from ssl_pretext.cli import main
from ssl_pretext.cli.parsing import parse

PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
]
TUTORIAL = "docs/tutorial.md"
RUN_ELSEWHERE = ("README.md", "docs/cli.md", TUTORIAL)  # each command, by test_cli.py and below
OTHERS = {"bash", "mkdocs", "pip", "pre-commit"}  # programs that are not ours


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)


def commands(page: str) -> list[list[str]]:
    """The commands of a page as lists of words."""
    found = []
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            found += filter(None, (shlex.split(part, comments=True) for part in line.split("&&")))
    return found


def claims(block: str) -> list[str]:
    """What a line that prints says in the comment behind it that it prints; one that begins with a word is a remark."""
    return re.findall(r"^print\(.*\)  # (?![a-z]+ )(.*)$", block, re.M)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to run in, and fewer sample photos: what is tested is that it works, not how well it learns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ssl_pretext.data.samples.MOST", {"train": 12, "test": 4})
    monkeypatch.setattr("torch.compile", lambda forward: forward)  # takes minutes; test_gpu.py has it


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs_as_written_and_prints_what_it_says(page, capsys):
    scope: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)
        printed = capsys.readouterr().out.splitlines()
        assert set(claims(block)) <= set(printed)


def test_a_wrong_claim_is_seen():
    assert claims("x = 1  # one\nprint(x)  # 2\nprint(x)  # shows it\n") == ["2"]


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_ELSEWHERE and commands(page)])
def test_commands_are_understood(page, monkeypatch, capsys):
    for command in commands(page):
        understand(command, monkeypatch, capsys)


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
def test_a_command_that_does_not_exist_is_seen(wrong, monkeypatch, capsys):
    with pytest.raises((AssertionError, ValueError)):
        understand(shlex.split(wrong), monkeypatch, capsys)


def understand(command: list[str], monkeypatch, capsys) -> None:
    """Fails for a program, a module or an option that is not there."""
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
        assert options <= set(re.findall(r"--?[a-z0-9-]+", shown)), f"{program} has not all of {options}"
    else:
        assert program in OTHERS | {"pytest"}, f"{program} is no program that the pages know"


def help_of(module: str, arguments: list[str], monkeypatch, capsys) -> str:
    """What a module prints for `--help` behind the arguments, which are then parsed and not acted upon."""
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
        "pretrain": ["--epochs", "1"],
        "probe": ["--seeds", "2", "--per-class", "2"],
    }
    return [*command, *size.get(command[0], [])]


@pytest.mark.usefixtures("elsewhere")
def test_the_tutorial_runs(capsys):
    """Its commands one after another, on fewer photos and for fewer epochs."""
    (script,) = blocks(TUTORIAL, "python")
    for program, *arguments in commands(TUTORIAL):
        if program == "python":
            assert arguments == ["sample_photos.py"]
            exec(compile(script, arguments[0], "exec"), {})
        elif program != "pip":
            assert main(smaller(arguments)) == 0, arguments
    assert Path("colored.png").is_file()
    printed = capsys.readouterr().out.splitlines()
    assert {first_cell(row) for row in tables(TUTORIAL)} - {"as it is"} <= {first_cell(line) for line in printed}
    draw(Path("runs"), Path("drawn"))
    assert {file.name for file in Path("drawn").iterdir()} == {file.name for file in (ROOT / "docs/pictures").iterdir()}


def first_cell(row: str) -> str:
    return row.partition("|")[2].partition("|")[0].strip()


def tables(page: str) -> list[str]:
    return re.findall(r"^\| [^-!].*\|$", (ROOT / page).read_text(), re.M)


@pytest.mark.slow
def test_the_tutorial_as_written(tmp_path):
    """In a shell, at its full size: figures differ a little from machine to machine, its last verdict does not."""
    (tmp_path / "sample_photos.py").write_text(blocks(TUTORIAL, "python")[0])
    lines = [line for block in blocks(TUTORIAL, "bash") if not block.startswith("pip") for line in block.splitlines()]
    shell = "\n".join(lines).replace("ssl-pretext", f"{sys.executable} -m ssl_pretext.cli")
    shell = re.sub(r"^python ", f"{sys.executable} ", shell, flags=re.M)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SSL_PRETEXT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-e"], input=shell, cwd=tmp_path, env=env, text=True, capture_output=True, check=True
    )
    for control in ("pixels rgb", "color histogram"):
        assert re.search(rf"^split_brain: [\d.]+ points above {control}", done.stdout, re.M), done.stdout


def test_the_figures_of_the_tutorial_are_those_of_its_runs():
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(TUTORIAL)]
    for run, found in figures().items():
        for row in found["rows"]["linear"]:
            assert [str(value) for value in row.values()] in shown, f"{run}: {row}"


def figures() -> dict[str, dict]:
    return json.loads((ROOT / "docs/pictures/tutorial.json").read_text())["runs"]


def test_the_picture_shows_the_figures_of_the_tutorial():
    means = {f"{100 * row['test_accuracy_mean']:.0f}%" for row in figures()["both"]["summary"]["linear"]}
    for shape in ("wide", "tall"):
        assert set(re.findall(r">(\d+%)<", (ROOT / f"docs/pictures/idea-{shape}.svg").read_text())) == means


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_shows_every_module_of_every_layer(hooks):
    page = hooks.on_page_markdown((ROOT / "docs/contributing/map.md").read_text())
    assert hooks.layers() == LAYERS
    assert re.findall(r'<a href="#(\w+)">', page) == [name for layer in LAYERS for name in layer]
    for file in PACKAGE.rglob("[!_]*.py"):
        assert f"`{file.name}`" in page, file
    assert hooks.on_page_markdown("another page") == "another page"


def test_a_module_that_does_not_say_what_it_is_for_is_seen(hooks, tmp_path):
    (tmp_path / "silent.py").write_text("x = 1\n")
    with pytest.raises(LookupError, match="does not say in its first line what it is for"):
        hooks.first_line(tmp_path / "silent.py")
