"""The command: what it prints, and that every slip is one line and exit code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import support
from flax.traverse_util import unflatten_dict
from support import tiny_run

from dinado_jax import cli
from dinado_jax.config.load import differences
from dinado_jax.config.toml_text import as_toml
from dinado_jax.distributed import signals
from dinado_jax.errors import InputError
from dinado_jax.models.architectures import save_model
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.llama_checkpoint import to_config
from dinado_jax.models.params import param_shapes
from dinado_jax.models.tokenizer import load_codec, train_codec
from dinado_jax.stages import pipeline
from dinado_jax.stages.context import Context
from dinado_jax.stages.settings import load_config
from dinado_jax.training.cost_estimate import dry_run
from dinado_jax.training.loop import Diverged

TESTS = support.TESTS
DEMO = TESTS.parent / "configs" / "demo.toml"


def command(name, folder, *more):
    return [name, str(tiny_run.CONFIG), f"run.folder={folder}", *more]


def refused(capsys, argv):
    """The one line that `dinado argv` says before it exits with code 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("dinado: error: ")
    if before:  # a stage had begun
        head, *settings = before
        assert head.endswith("config.json keeps them)")
        assert all(re.match(r"  [a-z._0-9]+ = ", setting) for setting in settings)
    return line


@pytest.fixture(autouse=True)
def deaf(monkeypatch):
    """The command must not take over the signals of pytest."""
    monkeypatch.setattr(signals, "install_handlers", lambda: None)


def test_help_is_quick():
    script = """
import sys
from dinado_jax import cli
for argv in (["--help"], ["train", "--help"]):
    try:
        cli.main(argv)
    except SystemExit as stop:
        assert stop.code == 0, stop.code
print(sorted({"jax", "flax", "numpy", "transformers", "orbax"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]" and not done.stderr
    for name in ("demo", "run", "sft", "rollout", "train", "generate", "evaluate"):
        assert f"\n    {name} " in done.stdout


def test_print_config(capsys, tmp_path):
    cli.main(command("run", tmp_path, "--print-config", "--json"))
    printed = json.loads(capsys.readouterr().out)
    assert printed == tiny_run.config(f"run.folder={tmp_path}").as_dict()
    assert not list(tmp_path.iterdir())


def test_the_printed_configuration_can_be_run(capsys, tmp_path):
    config = tiny_run.config('rollout.oracle="a\\\\b\\u007f:c"', "target.moments=[]", "seed=7")
    moment = "target.moments=[{feature = 'mentions_colour', mean = 0.25}]"
    cli.main(["run", str(tiny_run.CONFIG), moment, "seed=7", "--print-config"])
    path = tmp_path / "printed.toml"
    path.write_text(capsys.readouterr().out)
    assert load_config(path) == tiny_run.config(moment, "seed=7")
    path.write_text(as_toml(config))
    assert load_config(path) == config
    assert re.search("^seed = 7 +# default: 0$", path.read_text(), re.M)


def test_json_is_for_what_is_printed(capsys, tmp_path):
    assert "--json is for --print-config" in refused(capsys, command("run", tmp_path, "--json"))


def test_overrides_may_follow_options(capsys):
    cli.main(["run", str(DEMO), "seed=3", "--print-config", "sft.steps=7", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["seed"], printed["sft"]["steps"]) == (3, 7)


def test_dry_run(capsys, tmp_path, tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        cli.main(command("train", tmp_path, "--dry-run"))
    printed = json.loads(capsys.readouterr().out)
    config = tiny_run.config().base
    sizes = GPT2Config(config.vocab_size, config.n_positions, config.n_embd, 1, config.n_head)
    assert_costs(printed, GPT2(sizes))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_llama_reads_its_config_alone(capsys, tmp_path, tmp_path_factory):
    model = Llama(
        LlamaConfig(
            model_type="qwen3",
            vocab_size=190,
            max_position_embeddings=24,
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3"} | to_config(model)))
    with tiny_run.quick_compilation(tmp_path_factory):
        cli.main(command("run", tmp_path, f"base.path={base}", "--dry-run"))
    assert_costs(json.loads(capsys.readouterr().out), model)
    assert list(tmp_path.iterdir()) == [base]


def assert_costs(printed, model):
    assert printed["parameters"] == sum(map(np.prod, param_shapes(model).values()))
    assert printed["forward_flops_per_token"] == model.flops_per_token
    assert 0 < printed["trainable_parameters"] < printed["parameters"]
    for name in ("sft_step", "train_step", "decode_call"):
        assert printed[name]["flops_at_least"] > 0 and printed[name]["temp_bytes"] > 0


def test_the_training_step_of_a_dry_run_has_room_for_new_tokens(tmp_path_factory):
    def flops(*overrides):
        return dry_run(tiny_run.config(*overrides))["train_step"]["flops_at_least"]

    with tiny_run.quick_compilation(tmp_path_factory):
        assert flops("rollout.max_new_tokens=20") > 1.1 * flops()


def test_a_dry_run_of_a_control_with_state(tmp_path_factory):
    """Its decoding reads the automata of every prompt as well; particles have a cache each, and
    those of a control one of the base beside it.
    """

    def costs(*overrides):
        return dry_run(tiny_run.config(*overrides, "rollout.oracle=lexical"))

    with tiny_run.quick_compilation(tmp_path_factory):
        plain = costs("decode.particles=4")
        of_state = costs("control.state=true", "train.particles=4")
    assert of_state["decode_call"]["argument_bytes"] > plain["decode_call"]["argument_bytes"]
    assert "train_particles" not in plain and "decode_particles" not in of_state
    config = tiny_run.config()
    assert config.rollout.batch == config.decode.batch == 32
    keys = values = 32 * (config.decode.max_new_tokens - 1) * config.base.n_embd * 4
    # Caches are donated.
    cached = [
        found[name]["decode_call"]["aliased_bytes"]
        for found, name in ((of_state, "train_particles"), (plain, "decode_particles"))
    ]
    assert keys + values < cached[0] < 2 * (keys + values) < cached[1]


def test_the_demo_is_its_config(capsys):
    cli.main(["demo", "--print-config"])
    demo = capsys.readouterr().out
    cli.main(["run", str(DEMO), "--print-config"])
    assert capsys.readouterr().out == demo
    assert Context.of(tiny_run.config("name=demo")).run.path == Path("runs/demo")


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"dinado \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("stage", ["sft", "rollout", "train", "generate", "evaluate", "run"])
def test_every_command_of_stages_takes_a_folder(capsys, tmp_path, stage):
    """It is where the stage looks, and what is wrong there is told."""
    out = tmp_path / "there"
    (out / "sft").mkdir(parents=True)
    (out / "sft" / "config.json").write_text("{")
    (out / "sft" / "tokenizer").mkdir()
    said = refused(capsys, [stage, str(tiny_run.CONFIG), "--out", str(out)])
    assert str(out / "sft" / "config.json") in said


def test_what_a_run_does_is_told_by_what_is_its_own(capsys, tmp_path):
    cli.main(command("sft", tmp_path, "sft.steps=0", 'delta.full=[".*"]'))
    head, *settings, done = capsys.readouterr().err.splitlines()
    assert head.startswith(f"{tmp_path / 'tiny'}: other settings than the defaults (--print-config")
    assert {"  sft.steps = 0", '  delta.full = [".*"]', '  name = "tiny"'} <= set(settings)
    config = tiny_run.config(f"run.folder={tmp_path}", "sft.steps=0", 'delta.full=[".*"]')
    assert settings == [f"  {line}" for line in differences(config)]
    assert done.startswith("sft: done")


def test_a_quiet_run_says_nothing_of_its_progress(capsys, tmp_path):
    cli.main(command("sft", tmp_path, "sft.steps=0", "--quiet"))
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "tiny" / "sft" / "done.json").exists()
    cli.main(command("sft", tmp_path, "sft.steps=0"))
    assert "sft: already done" in capsys.readouterr().err


# Bad input


@pytest.mark.parametrize(
    "argv, what",
    [
        ([], "no command given: one of demo, run, sft, "),
        (["rnu"], "COMMAND: invalid choice: 'rnu': did you mean run?"),
        (["evalute", "x.toml"], "did you mean evaluate?"),
        (["xyzzy"], "COMMAND: invalid choice: 'xyzzy': one of demo, run, sft, "),
        (["run"], "`dinado run`, CONFIG is missing: see `dinado run --help`"),
        (["bench"], "`dinado bench`, WHAT is missing"),
        (["bench", "decod"], "WHAT: invalid choice: 'decod': did you mean decode?"),
        (
            ["run", str(DEMO), "--dryrun"],
            "arguments: --dryrun: did you mean --dry-run?",
        ),
        (["run", str(DEMO), "--print-confg", "seed=3"], "did you mean --print-config?"),
        (["demo", "--otu=x"], "unrecognized arguments: --otu=x: did you mean --out?"),
        (["demo", "-q"], "unrecognized arguments: -q: one of --help, --out, "),
        (["bench", "decode", "--peeer"], "did you mean --peer?"),
        (["bench", "decode", "--batch", "many"], "--batch: invalid int value: 'many': see "),
        (["--hlep"], "did you mean --help?"),
        (["run", str(DEMO), "--out"], "--out: expected one argument: see `dinado run --help`"),
        (
            ["demo", "a.toml"],
            "override 'a.toml' on the command line: write it as section.key=value",
        ),
        (["run", str(DEMO), "--out", "x", "run.folder=y"], "run.folder has no effect with --out"),
        (["run", "train.steps=3"], "a setting comes after the path of a .toml file"),
        (["run", str(DEMO), "--train.steps=3"], "a setting has no dashes, write train.steps=.."),
        (["run", str(DEMO.with_name("demoo.toml"))], f"did you mean {DEMO}?"),
        (["run", str(DEMO.parent)], "give the path of a .toml file"),
    ],
)
def test_slips_of_the_command_line(capsys, argv, what):
    assert what in refused(capsys, argv)


@pytest.mark.parametrize("flag", ["--print-config", "--dry-run"])
@pytest.mark.parametrize(
    "override, what",
    [
        ("rollout.oracle=tiny_run.even", "oracle 'tiny_run.even', no such oracle: give "),
        ("evaluate.prompt_file=nofile.txt", "nofile.txt, no such file or directory: correct "),
        ("sft.pretrain_path=nofile.txt", "nofile.txt, no such file or directory: correct "),
        ("base.path=./nowhere", "no such folder, './nowhere'"),
        ("task.source=DATA", "DATA, no files of the train split"),
    ],
)
def test_what_needs_no_computation_is_checked_first(capsys, tmp_path, flag, override, what):
    more = ["task.name=commongen"] if override.startswith("task.source") else []
    override, what = (text.replace("DATA", str(tmp_path)) for text in (override, what))
    assert what in refused(capsys, command("run", tmp_path, override, *more, flag))
    assert not list(tmp_path.iterdir())


def test_the_hub_is_not_asked_for_a_configuration(capsys, tmp_path):
    more = ("base.path=some/model", "task.name=commongen", "task.source=some/data")
    cli.main(command("run", tmp_path, *more, "--print-config", "--json"))
    assert json.loads(capsys.readouterr().out)["task"]["source"] == "some/data"


@pytest.mark.parametrize(
    "content, said",
    [
        (b"[trian]\r\nsteps = 3", "'trian.steps' in mine.toml: did you mean 'train.steps'?"),
        (b"[train]\nobjective = regression", "is not TOML .*line 2.* texts are in quotes"),
        (b'name = "caf\xe9"', "mine.toml, not UTF-8 text .byte 11.: save it as UTF-8"),
        (b"\xff\xfen\0", "mine.toml, UTF-16 text: save it as UTF-8"),
    ],
)
def test_slips_of_a_config_file(capsys, monkeypatch, tmp_path, content, said):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_bytes(content)
    assert re.search(said, refused(capsys, ["run", "mine.toml"]))


def test_a_mark_and_the_line_ends_of_windows_are_no_slips(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_bytes(b'\xef\xbb\xbfname = "mine"\r\n[train]\r\nsteps = 700\r\n')
    cli.main(["run", "mine.toml", "--print-config", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["name"], printed["train"]["steps"]) == ("mine", 700)


def test_a_run_in_place_of_its_config(capsys, finished_run):
    said = refused(capsys, ["run", str(finished_run)])
    assert "it is the folder of a run, `dinado inspect` shows it" in said


def test_config_file_missing(capsys):
    assert "no config file 'nowhere.toml'" in refused(capsys, ["run", "nowhere.toml"])


@pytest.mark.parametrize(
    "override, what",
    [
        ("train.stepz=3", "did you mean 'train.steps'"),
        ("train.steps=many", "it must be an integer"),
        ("decode.temperature=-1", "decode.temperature = -1"),
        ("decode.top_p=1.5", "decode.top_p = 1.5"),
        ("train.steps", "write it as section.key=value"),
        ("rollout.oracle=no_such_module:judge", "importing no_such_module raised"),
        ("rollout.oracle=support.tiny_run:no_such", "support.tiny_run has no function no_such"),
        ("rollout.oracle=strict", "no such oracle"),
        ("base.vocab_size=9", "needs at least 257"),
        ("base.n_head=3", "base.n_embd = 16 is not divisible"),
        ("sft.max_length=2", "no example fits in 2 tokens"),
    ],
)
def test_bad_settings(capsys, tmp_path, override, what):
    assert what in refused(capsys, command("sft", tmp_path, override))


@pytest.mark.parametrize(
    "overrides, what",
    [
        (["delta.low_rank=h_7/.*"], "delta.low_rank rule 'h_7/.*' matches no parameter"),
        (["delta.full=h_("], "not a regular expression"),
        (["delta.low_rank=[]", "delta.full=[]"], "the delta is empty"),
        (["delta.low_rank=ln_f/scale", "delta.full=[]"], "vectors have no rank"),
        (["delta.rank=17"], "delta.rank = 17 is more than"),
        (["control.kind=soft", "control.trunk=low_rank", "delta.rank=17"], "delta.rank = 17"),
        (["control.kind=hard", "delta.rank=17"], "delta.rank = 17"),
        (["parallel.devices=64"], "parallel.devices = 64, a process has 8"),
        (["task.name=commongen", "task.source=./gone"], "./gone"),
        (["sft.pretrain_path=gone.txt", "sft.pretrain_steps=1"], "gone.txt, no such file"),
        (["base.path=./gone"], "no such folder, './gone'"),
        (["base.path=loop"], "its links lead back to themselves"),
        (["base.path=" + "x" * 300], "choose a shorter name"),
        (["rollout.samples=1000000000"], "it must be at most 1,000,000, correct the typo"),
    ],
)
def test_what_can_be_known_is_known_before_anything_is_done(
    capsys, tmp_path, monkeypatch, overrides, what
):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert what in refused(capsys, command("run", tmp_path / "out", *overrides))
    assert not (tmp_path / "out").exists()


def test_rules_are_for_kinds_that_have_a_delta(capsys, tmp_path):
    argv = command("run", tmp_path, "control.kind=nado", "delta.rank=17")
    assert "delta.rank = 17 in the command line has no effect" in refused(capsys, argv)


def test_room_for_new_tokens_in_a_given_base(capsys, base, tmp_path):
    argv = command("run", tmp_path / "out", f"base.path={base}", "decode.max_new_tokens=24")
    assert "decode.max_new_tokens = 24 leaves no room" in refused(capsys, argv)


def test_prompt_files_are_looked_at_first(capsys, tmp_path):
    path = tmp_path / "prompts.txt"
    argv = command("run", tmp_path, f"evaluate.prompt_file={path}")
    assert f"{path}, no such file or directory: correct the path" in refused(capsys, argv)
    path.write_text("\n  \n")
    assert f"{path} holds no prompt" in refused(capsys, argv)
    assert list(tmp_path.iterdir()) == [path]


def test_prompt_files_are_read_as_the_lexical_oracle_reads_them(capsys, tmp_path):
    path = tmp_path / "prompts.txt"
    argv = command("run", tmp_path, f"evaluate.prompt_file={path}", "rollout.oracle=lexical")
    for wrong in ("dog chase", "... ="):
        path.write_text(f"dog chase =\n\n{wrong}\n")
        assert f"{path}:3, " in refused(capsys, argv)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_split_is_told_before_training(capsys, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"concepts": ["dog"], "scene": ["A dog."]}\n')
    task = ("task.name=commongen", f"task.source={tmp_path}", "evaluate.split=dev")
    assert "no files of the dev split" in refused(capsys, command("run", tmp_path / "r", *task))
    assert not (tmp_path / "r").exists()


def test_a_missing_sacrebleu_matters_to_evaluate_alone(monkeypatch, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"concepts": ["dog"], "scene": ["A dog."]}\n')
    config = tiny_run.config("task.name=commongen", f"task.source={tmp_path}")
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    pipeline.check(config, {"generate"})
    with pytest.raises(InputError, match=r"pip install '\.\[eval\]'"):
        pipeline.check(config, {"evaluate"})


@pytest.mark.parametrize(
    "error, code, what",
    [
        (OSError(28, "No space left on device", "x"), 2, "cannot write x .*run.folder=DIR .*--out"),
        (PermissionError(13, "Permission denied", "x"), 2, "cannot open x "),
        (Diverged("train: the loss is nan"), 1, "error: train: the loss is nan$"),
    ],
)
def test_how_a_run_may_end(capsys, monkeypatch, tmp_path, error, code, what):
    def end(*args):
        raise error

    monkeypatch.setattr(pipeline, "run_stages", end)
    with pytest.raises(SystemExit) as caught:
        cli.main(command("run", tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == code and re.search(what, line)


def test_a_stage_before_its_predecessor(capsys, tmp_path):
    said = refused(capsys, command("train", tmp_path))
    assert "stage train needs stage sft" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(capsys, command("sft", tmp_path / "file"))
    assert "file/tiny/sft, not a directory: a part of this path is a file" in said


# Bad models

ENDS = {"bos_token_id": 0, "eos_token_id": 0}


@pytest.fixture
def base(tmp_path):
    """A model's folder with its tokenizer, to be damaged."""
    model = GPT2(GPT2Config(vocab_size=300, n_positions=24, n_embd=16, n_layer=1, n_head=2))
    params = {path: np.zeros(shape, np.float32) for path, shape in param_shapes(model).items()}
    folder = tmp_path / "base"
    save_model(folder, model, unflatten_dict(params, sep="/"), ENDS)
    train_codec(["a dog chased a cat"] * 3 + ["some boys pushed the carts"] * 3, 300).save(folder)
    return folder


def refused_base(capsys, folder):
    return refused(capsys, command("sft", folder.parent / "runs", f"base.path={folder}"))


def test_model_folder_missing(capsys, tmp_path):
    assert "no such folder" in refused_base(capsys, tmp_path / "nowhere")


def test_model_without_its_config(capsys, base):
    (base / "config.json").unlink()
    assert "no config.json" in refused_base(capsys, base)


def test_model_of_pickled_weights(capsys, base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "no safetensors but pytorch_model.bin" in refused_base(capsys, base)


def test_model_truncated(capsys, base):
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "unreadable safetensors" in refused_base(capsys, base)


def test_model_without_a_tokenizer(capsys, base):
    for path in base.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer in" in refused_base(capsys, base)


def test_tokenizer_of_another_model(capsys, base):
    train_codec(["a dog chased a cat"] * 3, 300).save(base)
    size = len(train_codec(["a dog chased a cat"] * 3, 300).tokenizer)
    model = GPT2(GPT2Config(vocab_size=size - 1, n_positions=24, n_embd=16, n_layer=1, n_head=2))
    params = {path: np.zeros(shape, np.float32) for path, shape in param_shapes(model).items()}
    save_model(base, model, unflatten_dict(params, sep="/"), ENDS)
    said = refused_base(capsys, base)
    assert f"has {size} tokens, the model {size - 1}" in said


@pytest.mark.parametrize("spare, fits", [(512, True), (513, False)])
def test_tokenizer_far_smaller_than_the_model(tmp_path, spare, fits):
    made = train_codec(["a dog chased a cat"], 300)
    made.save(tmp_path)
    size = len(made.tokenizer)
    if fits:
        assert load_codec(tmp_path, size + spare).eos_id == made.eos_id
    else:
        with pytest.raises(InputError, match=f"has {size} tokens, the model {size + spare}"):
            load_codec(tmp_path, size + spare)
