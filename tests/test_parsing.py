"""Parsing of the command line: files of options, help and completion."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from cli_runs import error_line

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.cli.options import Pretrain, TrainingOptions
from ssl_pretext.cli.parsing import parse

ROOT = Path(sp.__file__).parents[1]


def test_the_command_line_overrides_the_options_of_a_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: photos\nimage-size: 32\nepochs: 16\nlearning_rate: 1e-3\naugment: rotation\ncompile: false\ncache:\n"
        "losses:\n  smooth_l1: 1\n  lpips[net=squeeze]: 0.5\n"
    )
    options = parse(["pretrain", f"--config={file}", "--epochs", "3", "--out", "run"])
    assert isinstance(options, Pretrain)
    assert (options.data, options.image_size, options.cache) == ("photos", 32, None)
    assert options.losses == "smooth_l1=1,lpips[net=squeeze]=0.5"
    assert options.fit == TrainingOptions(out=Path("run"), epochs=3, learning_rate=1e-3, augment="rotation")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(options.settings()))
    assert parse(["pretrain", "--config", str(again)]).settings() == options.settings()


@pytest.mark.parametrize("command", ["pretrain --data a --out b", "finetune a --data b", "search --data a --out b"])
def test_lr_is_short_for_the_learning_rate(command):
    short, long = (parse([*command.split(), option, "0.02"]) for option in ("--lr", "--learning-rate"))
    assert short == long
    assert short != parse(command.split())


def nine_times(form, first):
    """YAML whose ninth line stands for 9^9 values: each line repeats the one before it nine times."""
    lines = [f"a: &a {first}"]
    for before, name in pairwise("abcdefghij"):
        lines.append(f"{name}: &{name} " + form.format(",".join([f"*{before}"] * 9)))
    return "\n".join([*lines, "data: *j"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "epoch: 3\ncolor: 1",
            "run.yaml contains color, epoch, which pretrain does not have; its options are accumulate, augment, bands",
        ),
        ("16", "contains no options; write one per line, such as 'epochs: 16'"),
        ("a: [", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        (nine_times("[{}]", "[x]"), "the alias *a is not supported; write the value itself"),
        (nine_times("{{<<: [{}]}}", "{x: 1}"), "the alias *a is not supported; write the value itself"),
        ("data: " + 3000 * "[", "is not valid YAML"),
        ("epochs: " + 5000 * "1", "is not valid YAML: Exceeds the limit"),
        ("data: 2001-99-99", "is not valid YAML: month must be in 1..12"),
        ("data: [a, b]", "data in run.yaml must be a single value, got ['a', 'b']"),
        ("losses: {l1: [1]}", "losses in run.yaml must be a single value or a weight for each loss, got {'l1': [1]}"),
        ("losses: [l1]", "losses in run.yaml must be a single value or a weight for each loss, got ['l1']"),
    ],
    ids=lambda text: text[:40],
)
def test_files_without_options_are_refused(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(content)
    assert message in error_line(capsys, "pretrain", "--config", "run.yaml")


def test_help_imports_no_large_library_and_has_no_color_codes():
    command = [sys.executable, "-X", "importtime", "-m", "ssl_pretext.cli", "pretrain", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in finished.stderr.splitlines()}
    assert "tyro" in loaded
    assert not loaded & {"lightning", "diffusers", "timm", "torchvision", "torchmetrics", "matplotlib", "scipy"}
    assert "ssl-pretext pretrain --data photos --out runs/first" in finished.stdout
    assert "Number of passes over the images. (default: 16)" in finished.stdout
    assert "\x1b" not in finished.stdout


def test_the_completion_script_has_the_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--tyro-print-completion", "bash"])
    assert not ended.value.code
    assert "--image-size" in capsys.readouterr().out


def test_help_mentions_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert not ended.value.code
    assert "ssl-pretext --version prints the version" in capsys.readouterr().out
