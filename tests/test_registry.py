import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, UnknownNameError
from ssl_pretext.registry import Registry, format_spec, parse_spec
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.training.config import FitConfig

words = st.text("abcdefghij_", min_size=1).filter(lambda word: word.lower() not in ("true", "false", "inf", "nan"))
options = st.dictionaries(words, st.one_of(words, st.integers(), st.booleans(), st.floats(0.01, 100)), max_size=3)


@given(words, options)
def test_parsing_inverts_formatting(name, chosen):
    assert parse_spec(format_spec(name, chosen)) == (name, chosen)


def test_taken_and_unknown_names_are_errors():
    registry = Registry("loss")
    registry.register("smooth")(lambda: 1)
    with pytest.raises(ArgumentError, match="'smooth' is registered already"):
        registry.register("smooth")(lambda: 2)
    with pytest.raises(
        UnknownNameError, match=r"no loss named 'smoth'. Did you mean 'smooth'\? Known: smooth.*register_loss"
    ):
        registry.create("smoth")
    with pytest.raises(ArgumentError, match="does not take these options: .*'beta'. It takes none$"):
        registry.create("smooth[beta=1]")
    registry.register("sharp")(lambda width, beta=0.5: 1)
    with pytest.raises(ArgumentError, match=r"missing a required argument: 'width'\. It takes width, beta=0\.5$"):
        registry.create("sharp")
    with pytest.raises(ArgumentError, match="a loss name must not be empty or contain a space"):
        registry.register("two words")
    for spec in ("a[b", "[b=1]", ""):
        with pytest.raises(ArgumentError, match="a name with options in brackets"):
            parse_spec(spec)
    with pytest.raises(ArgumentError, match="must be written name=value"):
        parse_spec("a[b]")


def test_configurations_refuse_unknown_keys(tmp_path):
    config = FitConfig(out=tmp_path, epochs=2)
    assert FitConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(ArgumentError, match="FitConfig has no field epoch; its fields are"):
        FitConfig.from_dict({"out": "x", "epoch": 1})


def test_json_is_written_completely_or_not_at_all(tmp_path):
    file = tmp_path / "folder" / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]
    with pytest.raises(MissingFileError, match="does not exist"):
        read_json(tmp_path / "b.json")
    file.write_text('{"a": ')
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_json(file)


def test_unknown_names_list_similar_names_and_all_names():
    registry = Registry("probe")
    for name in ("linear", "nearest", "bilinear"):
        registry.register(name)(dict)
    assert registry.names() == ["bilinear", "linear", "nearest"]
    with pytest.raises(UnknownNameError, match="Did you mean 'linear' or 'bilinear'.*Known: bilinear, linear, nearest"):
        registry.factory("linaer")
    with pytest.raises(LookupError, match=r"named 'zzz'\. Known: bilinear, linear, nearest"):
        registry.create("zzz[a=1]")


def test_options_of_spec_and_call_are_passed_on():
    registry = Registry("probe")
    assert registry.register("all")(dict) is dict
    assert registry.create("all") == {}
    assert registry.create("all[]") == {}
    assert registry.create(" all[a=1, b=0.5;c=True;d=x] ", e=None) == {"a": 1, "b": 0.5, "c": True, "d": "x", "e": None}
    with pytest.raises(
        ArgumentError, match=r"a of the probe 'all\[a=1\]' is given twice, in the spec and as a keyword"
    ):
        registry.create("all[a=1]", a=2)
    with pytest.raises(ArgumentError, match="'all' is registered already"):
        registry.register("all")(list)
    assert registry.factory("all") is dict, "a failed registration changed the registry"


def test_errors_inside_a_factory_are_not_taken_for_wrong_options():
    registry = Registry("probe")

    @registry.register("broken")
    def broken(size: int = 1) -> int:
        return size + "1"

    with pytest.raises(TypeError, match="unsupported operand"):
        registry.create("broken")
    with pytest.raises(ArgumentError, match="'broken' does not take these options: got an unexpected .* 'sizes'"):
        registry.create("broken[sizes=2]")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ratio=1/4", "ratio of the probe 'typed' is a number, such as 0.5, got '1/4'"),
        ("count=many", "count of the probe 'typed' is a whole number, got 'many'"),
        ("count=2.5", "count of the probe 'typed' is a whole number, got 2.5"),
        ("on=no", "on of the probe 'typed' is true or false, got 'no'"),
    ],
)
def test_text_for_an_option_that_is_a_number_or_boolean_is_an_error(option, message):
    registry = Registry("probe")

    @registry.register("typed")
    def typed(ratio: float = 0.5, count: int = 1, on: bool = False, word: str = "a") -> tuple[object, ...]:
        return ratio, count, on, word

    with pytest.raises(ArgumentError, match=message):
        registry.create(f"typed[{option}]")
    key, _, value = option.partition("=")
    with pytest.raises(ArgumentError, match=message):
        registry.create("typed", **{key: 2.5 if value == "2.5" else value})
    assert registry.create("typed[ratio=1;on=true;word=1/4]") == (1, 1, True, "1/4")


def test_registries_do_not_share_names():
    first, second = Registry("loss"), Registry("loss")
    first.register("a")(dict)
    assert second.names() == []


@pytest.mark.parametrize("name", ["", "a b", "a[b=1]", "a;b", "a,b", "a=b", "a]"])
def test_names_that_a_spec_cannot_contain_are_errors(name):
    with pytest.raises(ArgumentError, match="a loss name must not be empty or contain a space"):
        Registry("loss").register(name)


def test_options_that_a_spec_would_change_are_errors():
    with pytest.raises(ArgumentError, match="the option a is given twice in"):
        parse_spec("name[a=1;a=2]")
    for value in ("1", "true", "a;b", "a]", ""):
        with pytest.raises(ArgumentError):
            format_spec("name", {"option": value})
    assert parse_spec(format_spec("name", {"a": "b/c.d", "e": -0.5})) == ("name", {"a": "b/c.d", "e": -0.5})


@pytest.mark.parametrize("pair", ["b", "b=", "=1", " = ", "a=1;b"])
def test_malformed_options_are_errors(pair):
    message = "must be written name=value and separated by ';' or ',', which no value can contain; got"
    with pytest.raises(ArgumentError, match=message):
        parse_spec(f"name[{pair}]")
