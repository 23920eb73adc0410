"""The schema of a run: frozen dataclasses, one per section. The defaults are the demo's."""

import dataclasses
import json
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """The task and how much of its data is used."""

    name: str = "toy"  # a name in tasks/table.py
    # commongen: a folder of local files or a hub name; cocoa, fisher: a folder. Data of your own
    # (prompts, pairs, text): a file, a folder or a hub name, NAME:SUBSET for one of several
    # configurations; see docs/data.md
    source: str = ""
    languages: str = "en-de"  # cocoa: en-de | en-es
    dev: str = ""  # data of your own: files of these splits; empty: see held_out
    test: str = ""
    held_out: float = 0.2  # without such files: share not trained on, half for dev, half for test
    field: str = "prompt"  # prompts, pairs: the column of prompts, where columns have names
    target_field: str = "target"  # pairs: of what follows them, a text or a list of texts
    text_field: str = "text"  # text: of documents
    document: str = "line"  # text: a document of a .txt file: line | paragraph
    train_examples: int = 40_000  # toy: captions drawn for sft and rollout prompts


@dataclasses.dataclass(frozen=True)
class Base:
    """The base: a checkpoint, or the sizes of a new model."""

    path: str = ""  # a folder, .gguf file, package:FILE or hub name; empty: a new model
    # Around every prompt: a text with {prompt}, or "chat" for the tokenizer's own chat template;
    # empty: prompts are as the task writes them. "hidden": the base sees none and continues an
    # empty text; automata know what a prompt asks for (control.state, decode.guarantee).
    prompt_template: str = ""
    vocab_size: int = 1024  # at most; tokens of the byte-level BPE trained for a new model
    n_positions: int = 24
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    param_dtype: str = "float32"
    dtype: str = "float32"  # of activations
    remat: bool = False  # training recomputes blocks: less memory (GPU, TPU), a third more time


@dataclasses.dataclass(frozen=True)
class Optim:
    """One optimiser, used by the sft and train sections."""

    steps: int = 1000
    batch: int = 128  # rows per step, over all micro-batches
    accumulate: int = 1  # micro-batches per step
    learning_rate: float = 1e-3  # peak
    warmup: int = 50  # steps of linear increase
    decay: str = "cosine"  # cosine | constant
    weight_decay: float = 0.0
    beta2: float = 0.99
    clip: float = 1.0  # global gradient norm; 0 is off


@dataclasses.dataclass(frozen=True)
class Sft(Optim):
    """Fine-tuning of the base on the task's own text."""

    steps: int = 1200
    batch: int = 64
    learning_rate: float = 5e-3
    # none: all parameters are trained. lora: low-rank changes, merged afterwards. prefix, prompt:
    # positions ahead of every row, by their keys and values or by their input embeddings.
    adapter: str = "none"  # none | lora | prefix | prompt
    rank: int = 16  # of a lora
    positions: int = 10  # of a prefix or prompt
    # Rows stand behind these positions, as PEFT has it, and the context is shorter by them. Not:
    # rows stay where they were, which a new base needs.
    shift: bool = False
    pretrain_path: str = ""  # plain text, one sentence per line: mined for pairs to train on first
    pretrain_steps: int = 0
    max_length: int = 32  # tokens; longer examples are left out
    # Of the steps on the task. uniform: at one rate everywhere; gaussian: by normal factors of the
    # same variance; guided: the less, the more Fisher information lies behind a site.
    dropout: str = "none"  # none | uniform | gaussian | guided
    dropout_rate: float = 0.1  # guided: where there is least information; where most, 0


@dataclasses.dataclass(frozen=True)
class Delta:
    """What a trained delta of the base changes, and in how many ranks or positions."""

    kind: str = "lora"  # lora | prefix | prompt, as sft.adapter
    positions: int = 10  # of a prefix or prompt
    shift: bool = False  # as sft.shift
    rank: int = 16
    alpha: float = 16.0  # scale = alpha / rank
    # Regular expressions of parameter paths; "default" stands for those of the base's architecture.
    low_rank: tuple[str, ...] = ("default",)
    full: tuple[str, ...] = ("default",)
    # The first layer that may change. Above 0 embeddings do not change either, and what lies below
    # is computed once for base and control.
    from_layer: int = 0


@dataclasses.dataclass(frozen=True)
class Control:
    """The kind of control and the parts it is built from."""

    kind: str = "merge"  # nado | soft | merge | hard
    direction: str = "merge"  # hard: nado | soft | merge
    form: str = "clamped"  # hard: clamped | projected (R <= 1 always; bends q if tokens are many)
    trunk: str = "small"  # soft: small | copy | low_rank (a delta of the base)
    layers: int = 4  # of nado's head and of soft's small trunk
    # mlp | trunk: what computes the norm from the states, that of the prefix alone or a few layers
    # that attend to all of them.
    norm: str = "mlp"
    norm_layers: int = 2  # of trunk
    norm_bias: str = "success_rate"  # success_rate | zero: the norm's initial bias
    state: bool = False  # reads what the text still lacks; for oracles that automata decide

    @property
    def direction_kind(self) -> str:
        """Of this kind of control: nado | soft | merge."""
        return self.direction if self.kind == "hard" else self.kind


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0
    max_new_tokens: int = 16
    batch: int = 512  # rows decoded at once


@dataclasses.dataclass(frozen=True)
class Decode(Sampling):
    """How a finished control generates."""

    strength: float = 1.0  # of the control: R^strength
    target_rate: float = 1.0  # success rate to aim for
    reject: float = 0.0  # tokens that q has this much rarer than p are never drawn; 0 is off
    guarantee: bool = False  # the control draws only texts that satisfy the oracle
    # With decode.guarantee: a folder of `dinado hmm train` of the run's base. The guarantee then
    # knows how likely the oracle is to be satisfied, not only whether it can be. Empty: a mask.
    hmm: str = ""
    # The head of dinado hmm train --head predicts the HMM's state from the base's hidden state.
    hmm_head: bool = False
    # Each text is chosen among so many of the control by weight and oracle: nearer to q* than the
    # control. 0 is off.
    particles: int = 0


@dataclasses.dataclass(frozen=True)
class Rollout(Sampling):
    """What the base draws for the oracle."""

    # A name in oracles/table.py, or a function(prompts, texts) -> scores, "package.module:function"
    # or "FILE.py:function", or "classifier:FOLDER", which `dinado oracle train` has written, or an
    # expression of these (docs/expressions.md); empty: the task's own, or none with target.moments.
    oracle: str = ""
    oracle_seconds: float = 0.0  # it may take per text; then the sample is left out. 0: any time
    prompts: int = 1000
    samples: int = 8  # per prompt
    references: bool = False  # the task's references join the rollouts, judged like any sample


@dataclasses.dataclass(frozen=True)
class Moment:
    """A feature of texts and its wanted mean."""

    # As rollout.oracle, a function(prompts, texts) -> numbers
    feature: str
    mean: float  # over prompts, of the feature's expectation under q*


@dataclasses.dataclass(frozen=True)
class Target:
    """What q* is, besides the oracle: p C e^(lambda . phi), with the wanted means of phi.

    With moments, an empty rollout.oracle is no oracle, C = 1, instead of the task's own.
    """

    moments: tuple[Moment, ...] = ()  # [[target.moments]]: feature = "..", mean = ..


@dataclasses.dataclass(frozen=True)
class Train(Optim):
    """Training of the control."""

    steps: int = 900
    batch: int = 256
    learning_rate: float = 1e-2
    # With control.state: of the few parameters that read the oracle's state and of the norm, which
    # can be learned from far fewer successes than the delta. On a base of a width D above 192 the
    # norm's is this times 192 / D.
    state_learning_rate: float = 1e-2
    weight_decay: float = 0.1
    objective: str = "regression"  # a name in objectives/table.py
    warmup_direction: int = 60  # first steps: likelihood on successes
    rounds: int = 5  # steps are divided evenly among them; each but the first samples again from q
    # Share of prompts whose rollouts are not trained on. Their loss is evaluated at ten steps of
    # the warm-up and of each round, which end at the best average, after three evaluations without
    # a better one; the steps left are not done. 0: all steps are done.
    held_out: float = 0.0
    # Steps: time constant of the parameters' average that ends a round, at most a fifth of it;
    # 1 is off.
    average: int = 33
    refresh_prompts: int = 1000
    refresh_samples: int = 8
    # With control.state: rounds before training, each of refresh_prompts and refresh_samples, in
    # which the table that the control begins with follows what texts drawn by it achieve. Matching
    # of particles gains more, policy_iteration undoes what that gained (docs/results.md).
    table_rounds: int = 0
    # With control.state: particles of the base on each of a round's prompts, guided by its success
    # rates by state; they find successes that plain samples hardly ever are. 0 is off.
    particles: int = 0
    mixture: float = 0.0  # share of a refresh round's samples that is drawn from the base
    # Share of a refresh round's samples that q begins and the base continues from a random token
    # on: labels of prefixes that q visits, with weight 1 for what follows. 0 is off.
    roll_out: float = 0.0
    margin: float = 6.0  # nats; C <= e^-margin is a failure; reinforce, ppo: the reward of C = 1
    # Of regression, consistency and policy_iteration, the coefficients
    anchor: float = 0.3  # of the likelihood of successes
    bound: float = 0.3  # of values R above 1
    # With control.state: of values of prefixes above what can still succeed after them.
    prefix_bound: float = 1.0
    bellman: float = 1.0  # lambda
    bellman_start: int = 0  # steps with lambda = 0 first
    # Objective published has all rollouts alike: the others are not for it, except in warm-ups.
    weights: str = "importance"  # importance (p / proposal) | none: the proposals' q*, not p's
    weight_clip: float = 0.98  # quantile at which importance weights of whole rows are cut
    reference_weight: float = 0.0  # a successful reference's share relative to a sample's
    balance: bool = True  # as many successes as failures for the norm, log-odds corrected
    detach: bool = True  # the norm's losses do not move the direction
    base_states: str = "recompute"  # recompute | float32 | bfloat16: on disk, once for all epochs
    strict: bool = False  # warnings of summary.json make `dinado run` exit with code 3


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What is generated to be judged."""

    split: str = "test"
    prompts: int = 500
    samples: int = 4
    # Each prompt is also continued once at each of these strengths of the control, beside
    # decode.strength, for the report's curve of success against KL.
    strengths: tuple[float, ...] = (0.5, 1.5, 2.0)
    prompt_file: str = ""  # prompts to continue, one per line, instead of the split's
    # As rollout.oracle: another one, whose success rate is reported too. A classifier must not be
    # one that the control was trained with.
    oracle: str = ""


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How arrays and work are spread over devices."""

    mode: str = "jit"  # jit | shard_map | pmap: how a training step is spread over devices
    fsdp: int = (
        1  # devices that share one copy of base, trainable parameters and optimiser state (jit)
    )
    devices: int = 0  # of each process; 0 is all


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run is kept, and how often it saves and logs."""

    folder: str = "runs"
    log_every: int = 20  # steps
    save_every: int = 200  # steps
    # none | tensorboard: where figures of steps and rounds are written besides the folders of the
    # stages; event files are in its folder tensorboard.
    report_to: str = "none"


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run, a section each."""

    name: str = "demo"
    seed: int = 0
    task: Task = Task()
    base: Base = Base()
    sft: Sft = Sft()
    delta: Delta = Delta()
    control: Control = Control()
    rollout: Rollout = Rollout()
    target: Target = Target()
    train: Train = Train()
    decode: Decode = Decode()
    evaluate: Evaluate = Evaluate()
    parallel: Parallel = Parallel()
    run: Run = Run()

    def as_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))


def flatten(config: Config) -> dict[str, tuple[Any, Any]]:
    """Every leaf as {"section.key": (value, type)}."""
    leaves = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            hints = typing.get_type_hints(type(value))
            for inner in dataclasses.fields(value):
                leaves[f"{field.name}.{inner.name}"] = (
                    getattr(value, inner.name),
                    hints[inner.name],
                )
        else:
            leaves[field.name] = (value, field.type)
    return leaves
