"""Values that are each in range but do not fit beside each other: both sides of every rule."""

import pytest
from support import tiny_run

from dinado_jax.errors import InputError
from dinado_jax.stages.settings import stored_config


@pytest.mark.parametrize(
    "overrides, told",
    [
        # regression: two halves, the norm's by label, in micro-batches
        ("train.batch=12 train.accumulate=3", ""),
        ("train.batch=12 train.accumulate=2", ""),
        ("train.batch=20 train.accumulate=4", "multiple of 8"),
        ("train.batch=24 train.accumulate=4", ""),
        ("train.batch=10", "multiple of 4"),
        ("train.objective=prefixes train.batch=10", "multiple of 4"),
        ("train.objective=published train.batch=9", ""),
        ("train.objective=published train.batch=9 train.accumulate=3", ""),
        ("train.objective=published train.batch=9 train.accumulate=2", "not divisible by"),
        ("sft.batch=9 sft.accumulate=3", ""),
        ("sft.batch=9 sft.accumulate=2", "sft.batch = 9 is not divisible by"),
        # ratio: several samples of a prompt, in both kinds of rounds
        ("train.objective=ratio rollout.samples=2 train.refresh_samples=2", ""),
        # variance: groups of four that a micro-batch does not divide
        ("train.objective=variance train.batch=16 train.accumulate=2", ""),
        ("train.objective=variance train.batch=24 train.accumulate=2", "multiple of 16"),
        ("train.objective=variance rollout.samples=1", "set rollout.samples and"),
        ("train.objective=ratio rollout.samples=1", "set rollout.samples and"),
        ("train.objective=ratio train.refresh_samples=1", "set rollout.samples and"),
        # consistency: a value head that is not the direction's
        ("train.objective=consistency train.batch=9", ""),
        ("train.objective=consistency control.kind=soft", ""),
        ("train.objective=consistency control.kind=nado", "set control.kind to soft or merge"),
        ("train.objective=consistency control.kind=hard", ""),
        ("train.objective=consistency control.kind=hard control.direction=nado",
         "set control.direction to soft or merge"),
        # policy_iteration: samples of q alone, and values that are not derived from q
        ("train.objective=policy_iteration train.mixture=0 control.kind=soft", ""),
        ("train.objective=policy_iteration train.mixture=0.5", "set train.mixture=0"),
        ("train.objective=policy_iteration train.roll_out=0.5", "set train.roll_out=0"),
        ("train.objective=policy_iteration control.kind=hard", "choose another kind, or another"),
        ("train.objective=policy_iteration control.kind=nado", "set control.kind to soft or merge"),
        # contrastive: groups of eight, and an R that is not derived from q
        ("train.objective=contrastive train.batch=16", ""),
        ("train.objective=contrastive train.batch=24", "multiple of 16"),
        ("train.objective=contrastive train.batch=32 control.kind=nado", ""),
        ("train.objective=contrastive control.kind=hard", "choose another kind, or another"),
        # ppo: samples of q alone
        ("train.objective=ppo control.kind=hard", ""),
        ("train.objective=ppo train.mixture=0.25", "set train.mixture=0"),
        ("train.objective=ppo train.roll_out=0.25", "set train.roll_out=0"),
        ("train.warmup_direction=6 train.objective=regression", ""),
        ("train.warmup_direction=7", "is more than train.steps = 6"),
        ("train.held_out=0.125", ""),
        ("train.held_out=0.12", "less than one prompt"),
        ("train.mixture=0.25", ""),
        ("train.mixture=0.75 rollout.top_k=0 rollout.top_p=1", ""),
        ("train.mixture=0.3", "not a whole number"),
        ("train.roll_out=0.75", ""),
        ("train.roll_out=0.25 rollout.temperature=0.9", ""),
        ("train.roll_out=0.3", "train.roll_out = 0.3 .* not a whole number"),
        ("train.roll_out=0.5 train.mixture=0.5", "leave no sample that the control draws alone"),
        # state: of an oracle that automata decide, and of rows whose prompts are at hand
        ("control.state=true", "control.state = true needs an oracle with automata"),
        ("control.state=true rollout.oracle=lexical", ""),
        ("control.state=true rollout.oracle=lexical train.mixture=0.25", ""),
        ("train.mixture=0.25 rollout.temperature=0.9", "weights plain samples"),
        ("train.mixture=0.25 rollout.top_k=3", "weights plain samples"),
        ("train.mixture=0.25 rollout.top_p=0.9", "weights plain samples"),
        ("base.prompt_template={prompt}=", ""),
        ("base.prompt_template=chat", "the tokenizer of a new model has no chat template"),
        ("base.prompt_template=chat base.path=some", ""),
        ("base.prompt_template=hidden", "neither the base nor a control without state sees"),
        ("base.prompt_template=hidden control.state=true rollout.oracle=lexical", ""),
        ("base.prompt_template=hidden decode.guarantee=true rollout.oracle=lexical", ""),
        ("rollout.references=true", "draws no reference"),
        ("rollout.references=true train.reference_weight=0.5", ""),
        ("rollout.references=true train.objective=published train.warmup_direction=0", ""),
        (
            "rollout.references=true train.reference_weight=1 train.objective=prefixes "
            "train.balance=false",
            "unbalanced labels draw no reference",
        ),
        (
            "rollout.references=true train.reference_weight=1 train.objective=matching "
            "train.balance=false",
            "",
        ),
        ("parallel.fsdp=2", ""),
        ("parallel.fsdp=2 parallel.mode=shard_map", "requires parallel.mode=jit"),
        ("parallel.fsdp=1 parallel.mode=pmap", ""),
        ("sft.pretrain_steps=1", "sft.pretrain_path is empty"),
        ("sft.pretrain_steps=1 sft.pretrain_path=x", ""),
        ("sft.dropout=guided", "a new base has learned nothing that Fisher scores"),
        ("sft.dropout=guided base.path=some", ""),
        ("sft.dropout=uniform sft.dropout_rate=0.001", "rates are multiples of 1/256"),
        ("sft.dropout=gaussian sft.dropout_rate=0.001", ""),
        ("sft.dropout=guided sft.pretrain_steps=1 sft.pretrain_path=x", ""),
        ("sft.dropout=uniform", ""),
        ("task.name=commongen", "task.source is empty"),
        ("base.n_embd=18", ""),
        ("base.n_embd=17", "base.n_embd = 17 is not divisible by base.n_head = 2"),
        ("rollout.max_new_tokens=23", ""),
        ("rollout.max_new_tokens=24", "rollout.max_new_tokens = 24 leaves no room"),
        ("decode.max_new_tokens=23", ""),
        ("decode.max_new_tokens=24", "decode.max_new_tokens = 24 leaves no room"),
        # products, just within and just beyond what fits: 10^10 tokens, 10^11 parameters
        ("rollout.prompts=1250000 rollout.samples=1000", ""),
        ("rollout.prompts=1250001 rollout.samples=1000", "10,000,008,000 tokens"),
        ("train.refresh_prompts=1250000 train.refresh_samples=1000", ""),
        ("train.refresh_prompts=1250001 train.refresh_samples=1000", "train.refresh_prompts ="),
        ("evaluate.prompts=1250000 evaluate.samples=1000", ""),
        ("evaluate.prompts=1250001 evaluate.samples=1000", "evaluate.prompts = 1250001"),
        ("sft.batch=100000 sft.max_length=100000", ""),
        ("sft.batch=100001 sft.max_length=100000", "sft.max_length = 100000"),
        ("base.n_positions=1000000 rollout.max_new_tokens=10001 rollout.batch=1000000 "
         "rollout.prompts=1 rollout.samples=1", "rollout.batch = 1000000 times"),
        ("base.n_positions=1000000 decode.max_new_tokens=10001 decode.batch=1000000 "
         "evaluate.prompts=1 evaluate.samples=1", "decode.batch = 1000000 times"),
        ("base.n_layer=1000 base.n_embd=2886", ""),
        ("base.n_layer=1000 base.n_embd=2888", "parameters: at most 100,000,000,000"),
    ],
)  # fmt: skip
def test_values_beside_each_other(overrides, told):
    tree = tiny_run.config().as_dict()
    for text in overrides.split():
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        kind = type(tree[section][name])
        tree[section][name] = value == "true" if kind is bool else kind(value)
    if told:
        with pytest.raises(InputError, match=told) as caught:
            stored_config(tree)
        assert "\n" not in str(caught.value)
    else:
        stored_config(tree)
