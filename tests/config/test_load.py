"""What a config file and the command line may say, and how a typo is answered."""

import pytest

from dinado_jax.config import load as loading
from dinado_jax.config.schema import Config, Moment
from dinado_jax.errors import InputError


def load(path, overrides=()):
    return loading.load(path, overrides).config


def refused(match, function, *args):
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(tmp_path, text):
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


def test_file_and_overrides_of_every_type(tmp_path):
    path = written(tmp_path, "seed = 3\n[sft]\nlearning_rate = 1\n[delta]\nfull = ['ln_f/.*']\n")
    overrides = ["train.reference_weight=1", "rollout.references=true", "decode.top_p=0.5"]
    config = load(path, ["sft.steps=7", *overrides])
    assert (config.seed, config.sft.steps, config.rollout.references) == (3, 7, True)
    assert config.decode.top_p == 0.5 and config.delta.full == ("ln_f/.*",)
    assert type(config.sft.learning_rate) is float
    assert load(path, ["seed=4"]).seed == 4


@pytest.mark.parametrize("text", ["64", "1e3", "true", "007", "2020-01-01", "a b", "", "x=y"])
def test_strings_need_no_quotes(text):
    assert load(None, [f"evaluate.prompt_file={text}"]).evaluate.prompt_file == text


@pytest.mark.parametrize("name", ["64", "1e3", "..a", "run_2.b-c", "läufe"])
def test_names_of_folders(name):
    assert load(None, [f"name={name}"]).name == name


def test_strings_and_lists_may_be_quoted():
    assert load(None, ['name="64"']).name == "64"
    assert load(None, ['delta.low_rank=["a", "b"]']).delta.low_rank == ("a", "b")
    assert load(None, [r"delta.low_rank=h_\d+/mlp/.*"]).delta.low_rank == (r"h_\d+/mlp/.*",)
    assert load(None, ["delta.low_rank=[]"]).delta.low_rank == ()


@pytest.mark.parametrize(
    "override, match",
    [
        ("train.stepz=3", "'train.stepz' in the command line: did you mean 'train.steps'"),
        ("steps=3", "unknown config key 'steps'"),
        ("trian.steps=3", "did you mean 'train.steps'"),
        ("train=3", "unknown config key 'train' .* write train.KEY with one of its keys: steps "),
        ("train.steps", "write it as section.key=value"),
        ("train.steps=many", "train.steps = 'many' in the command line: it must be an integer"),
        ("train.steps=3.5", "must be an integer"),
        ("train.steps=true", "must be an integer"),
        ("train.clip=[1]", "must be a number"),
        ("train.clip=true", "must be a number"),
        ("rollout.references=1", "must be true or false"),
        ("delta.full=[1]", "must be a list of strings"),
        ("train.detach=0", "must be true or false"),
        ("evaluate.strengths=much", "'much' .* must be a list of numbers"),
        ("evaluate.strengths=[1, true]", "must be a list of numbers"),
        ("evaluate.strengths=[1", r"not a list .* write it as \[0.5, 2\]"),
    ],
)
def test_overrides_that_are_refused(override, match):
    refused(match, load, None, [override])


@pytest.mark.parametrize(
    "key, hint",
    [
        ("stepz", "did you mean 'sft.steps' or 'train.steps'?"),
        ("steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("temperature", "did you mean 'rollout.temperature' or 'decode.temperature'?"),
        ("nmae", "did you mean 'name'?"),
        ("trian.steps", "did you mean 'train.steps'?"),
        ("trian.stepz", "did you mean 'train.steps'?"),
        ("rollout.orcale", "did you mean 'rollout.oracle'?"),
        ("target.moment", "did you mean 'target.moments'?"),
        ("rollout.steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("foo.steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("parallel.bar", "[parallel] has mode fsdp devices"),
        ("foo.bar", "the keys are name seed and those of [task] [base] [sft] "),
        ("zzzzzz", "the keys are name seed and those of [task] [base] [sft] "),
        ("", "the keys are name seed and those of "),
        (".steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("a.b.c", "the keys are name seed and those of "),
    ],
)
def test_a_hint_names_what_is_near_and_nothing_else(key, hint):
    said = refused("unknown config key", load, None, [f"{key}=1"])
    assert said.partition(" in the command line: ")[2].startswith(hint)


def test_lists_of_numbers():
    for text, strengths in (("[0, 0.5]", (0.0, 0.5)), ("3", (3.0,)), ("[]", ())):
        config = load(None, [f"evaluate.strengths={text}"])
        assert config.evaluate.strengths == strengths
        assert all(type(one) is float for one in config.evaluate.strengths)
        assert loading.assign(Config(), loading.leaves(config.as_dict(), "here")) == config


def test_a_list_that_is_none_is_no_pattern():
    for text in ('delta.full=["a', "delta.full=[a-z]+/bias"):
        refused("not a list .* write it as", load, None, [text])
    assert load(None, ["delta.full=['[a-z]+/bias']"]).delta.full == ("[a-z]+/bias",)


MOMENTS = (Moment("my:first", 0.5), Moment("my:second", 2.0))


def test_moments_are_tables(tmp_path):
    path = written(
        tmp_path,
        "[[target.moments]]\nfeature = 'my:first'\nmean = 0.5\n"
        "[[target.moments]]\nfeature = 'my:second'\nmean = 2\n",
    )
    config = load(path)
    assert config.target.moments == MOMENTS
    assert hash(config) == hash(load(path))
    line = next(line for line in loading.differences(config) if line.startswith("target."))
    given = line.replace(" = ", "=", 1)  # as an override
    assert load(None, [given]).target.moments == MOMENTS
    assert loading.assign(Config(), loading.leaves(config.as_dict(), "here")) == config
    assert load(path, ["target.moments=[]"]).target.moments == ()


@pytest.mark.parametrize(
    "value, match",
    [
        ("my:first", "'my:first' in the command line: it must be a list of tables, write it as"),
        ("3", "it must be a list of tables, write it as"),
        ("[3]", "it must be a list of tables"),
        ("[{feature='a'}]", "table 1 lacks 'mean': write it as .*feature = .., mean = .."),
        ("[{mean=1}]", "table 1 lacks 'feature'"),
        ("[{feature='a', mean=1, maen=1}]", "table 1 has no use for 'maen'"),
        ("[{feature='a', mean='1'}]", "table 1, mean = '1' .* must be a number"),
        ("[{feature=1, mean=1}]", "table 1, feature = 1 .* must be a string"),
        ("[{feature='a', mean=", "not a list .* write it as .*feature = .., mean = .."),
    ],
)
def test_moments_that_are_refused(value, match):
    refused(match, load, None, [f"target.moments={value}"])


def test_a_file_that_cannot_be_read():
    refused("/proc/self/mem, input/output error", load, "/proc/self/mem")


def test_files_that_are_refused(tmp_path):
    refused("no config file 'nowhere.toml'", load, "nowhere.toml")
    refused("no config file", load, tmp_path)
    path = written(tmp_path, "[sft\nsteps = 3")
    assert str(path) in refused("is not TOML", load, path)
    refused("is not TOML", load, written(tmp_path, "[sft]\nsteps = 3\nsteps = 4"))
    file = written(tmp_path, '[task]\r\n# \u2028\n  source = "C:\\mine"\n')
    told = refused("is not TOML", load, file)
    assert "(at line 3" in told and r'): source = "C:\mine"): correct it' in told
    path.write_bytes(b"name = '\xff'")
    refused("not UTF-8 text", load, path)
    path = written(tmp_path, "[sft]\nstepz = 3")
    assert str(path) in refused("did you mean 'sft.steps'", load, path)
    refused("sft.steps = '3' in .*some.toml: it must be", load, written(tmp_path, "sft.steps='3'"))
    refused("unknown config key 'sft'", load, written(tmp_path, "sft = 3"))
    refused("unknown config key 'sft.more'", load, written(tmp_path, "[sft.more]\na=1"))


@pytest.mark.parametrize(
    "text, told",
    [
        ("[sfft]", "unknown config key 'sfft' in .*: did you mean 'sft'"),
        ("[sft]\nsteps = 3\n[trian]", "unknown config key 'trian' in .*: did you mean 'train'"),
        ("[sfft]\nsteps = 3", "did you mean 'sft.steps'"),
        ("[sft.more]", "unknown config key 'sft.more'"),
        ("[sft.steps]", "sft.steps = {} in .*: it must be an integer"),
        ("[[sft]]", "unknown config key 'sft'"),
        ("[name]", "name"),
        ("nothing = {}", "unknown config key 'nothing'"),
        ('"sft.steps" = 3\n[sft]\nsteps = 4', "unknown config key 'sft.steps'"),
        ("a = " + "[" * 10**5, "nested too deep"),
        ("[sft]\nsteps = " + "9" * 5000, "is not TOML"),
    ],
)
def test_nothing_in_a_file_is_dropped(tmp_path, text, told):
    assert len(refused(told, load, written(tmp_path, text))) < 500


def test_an_empty_section_changes_nothing(tmp_path):
    assert load(written(tmp_path, "[sft]\n[train]")) == Config()


@pytest.mark.parametrize(
    "override, told",
    [
        ("sft.steps=3\nsft.batch=4", "several lines: give each value an argument of its own"),
        ("sft.steps=3\n[sft]", "several lines"),
        ("name=3\nsft.batch=4", "several lines"),
        ("sft.steps=3\nvalue.more=4", "it must be an integer"),
        ("sft.steps=" + "[" * 10**5, "nested too deep"),
        ("sft.steps=" + "9" * 5000, "it must be an integer"),
        ("run.folder=\udcff", "not UTF-8 text"),
        ("\udcff=3", "not UTF-8 text"),
    ],
)
def test_overrides_hold_one_value_each(override, told):
    assert len(refused(told, load, None, [override])) < 500


def test_of_two_overrides_of_a_key_the_last_counts():
    assert load(None, ["sft.steps=3", "sft.batch=8", "sft.steps=4"]).sft.steps == 4


def test_a_list_may_stand_on_several_lines():
    assert load(None, ['delta.low_rank=["a",\n"b"]']).delta.low_rank == ("a", "b")
