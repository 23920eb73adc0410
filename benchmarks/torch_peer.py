"""The comparable programs in PyTorch and transformers, as one would write them there.

    dinado bench train --peer benchmarks/torch_peer.py        also decode, rollout, beam

Controls have the sizes of the package's; formulas are written out over whole arrays [B, T, V]. All
rows of a batch are full, and all prompts have the same length.

train: `torch`; for merge also `peft`, which trains a low-rank delta. decode, rollout, beam:
`generate`, the base alone; under a control also `cached head`, and on demand (--peer-way)
`recomputed head`, which has no caches.

B rows, T tokens, D width, V vocabulary.
"""

import copy
import inspect
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LogitsProcessor,
    PreTrainedModel,
)

from dinado_jax.bench.measure import Program, Request, oracle
from dinado_jax.errors import InputError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_FLOOR, _CEILING = -70.0, -1e-6  # of log-probabilities of success
if DEVICE == "cuda":
    torch.set_float32_matmul_precision("high")  # TF32, in which XLA multiplies float32


def random_model(sizes: dict[str, Any], dtype: str, **changes: Any) -> PreTrainedModel:
    """Returns a random model without dropout and without a token that ends a row."""
    off = dict.fromkeys(("bos_token_id", "eos_token_id"))
    if sizes["model_type"] == "gpt2":
        off |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = AutoConfig.for_model(**sizes | off | changes)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        return model.to(getattr(torch, dtype)).eval()


def states(
    model: PreTrainedModel,
    tokens: torch.Tensor | None,
    cache: DynamicCache | None = None,
    embeddings: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the last hidden states [B, T, D] of tokens [B, T] or of their embeddings."""
    trunk = model.base_model
    given = {"inputs_embeds": embeddings, "use_cache": cache is not None}
    # transformers renames `past_key_values` in 5.24.
    named = "cache" if "cache" in inspect.signature(trunk.forward).parameters else "past_key_values"
    out = trunk(tokens, **given, **{named: cache})
    return out.last_hidden_state


def logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Returns float32 [.., V]."""
    return model.lm_head(hidden).float()


class Merge(nn.Module):
    """r = log pi - log p, where pi is a copy of the base of which everything is trained."""

    def __init__(self, base: PreTrainedModel):
        super().__init__()
        self.model = copy.deepcopy(base).float().requires_grad_()

    def forward(
        self, tokens: torch.Tensor, base: torch.Tensor, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        return states(self.model, tokens, cache)

    def log_r(self, hidden: torch.Tensor, log_p: torch.Tensor | None) -> torch.Tensor:
        return F.log_softmax(logits(self.model, hidden), -1) - log_p


class Lora(Merge):
    """r = log pi - log p, where pi is a copy of the base with low-rank changes."""

    def __init__(self, base: PreTrainedModel):
        nn.Module.__init__(self)
        transposed = base.config.model_type == "gpt2"  # its kernels are stored as (in, out)
        settings = LoraConfig(
            r=16, lora_alpha=16, target_modules="all-linear", fan_in_fan_out=transposed
        )
        self.model = inject_adapter_in_model(settings, copy.deepcopy(base))


class Soft(nn.Module):
    """r = the logits of a small model whose vocabulary matrix is not its embedding."""

    def __init__(self, request: Request, dtype: str):
        super().__init__()
        self.model = random_model(
            request.model, dtype, num_hidden_layers=request.layers, tie_word_embeddings=False
        )

    def forward(
        self, tokens: torch.Tensor, base: torch.Tensor, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        return states(self.model, tokens, cache)

    def log_r(self, hidden: torch.Tensor, log_p: torch.Tensor | None) -> torch.Tensor:
        return logits(self.model, hidden)


class Nado(nn.Module):
    """log R = log sigmoid of the logits of a few blocks on the base's hidden states."""

    def __init__(self, request: Request, dtype: str):
        super().__init__()
        width = request.model["hidden_size"]
        self.model = random_model(request.model, dtype, num_hidden_layers=request.layers)
        self.c_in = nn.Linear(width, width, device=DEVICE, dtype=getattr(torch, dtype))

    def forward(
        self, tokens: torch.Tensor, base: torch.Tensor, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        return states(self.model, None, cache, self.c_in(base))

    def log_r(self, hidden: torch.Tensor, log_p: torch.Tensor | None) -> torch.Tensor:
        return F.logsigmoid(logits(self.model, hidden))


class Training(nn.Module):
    """The published objective.

    merge: the whole policy is trained beside a frozen copy, as in the public release; soft, nado: a
    model beside the frozen base.
    """

    def __init__(self, request: Request):
        super().__init__()
        self.request = request
        self.base = random_model(request.model, request.dtype).requires_grad_(False)
        if request.variant == "merge":
            self.direction = (Lora if request.way == "peft" else Merge)(self.base)
        else:
            self.direction = {"soft": Soft, "nado": Nado}[request.variant](request, "float32")
        if request.variant != "nado":
            width = request.model["hidden_size"]
            inner, out = nn.Linear(width, 4 * width), nn.Linear(4 * width, 1)
            self.norm = nn.Sequential(inner, nn.ReLU(), out).to(DEVICE)

    def forward(self, tokens: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Returns the loss of `objectives.published` on rows [B, T] int64 with labels [B]."""
        variant, drawn = self.request.variant, tokens[:, 1:, None]
        with torch.no_grad():
            base = states(self.base, tokens[:, :-1])
            log_p = F.log_softmax(logits(self.base, base), -1)
        own = self.direction(tokens[:, :-1], base)
        r = self.direction.log_r(own, log_p)
        log_q = log_p + r if variant == "merge" else F.log_softmax(log_p + r, -1)
        ratio = log_q - log_p
        peak = ratio.amax(-1)
        if variant == "nado":
            log_beta = r.amax(-1)
        else:
            log_beta = F.logsigmoid(self.norm(base if variant == "merge" else own).float())[..., 0]
        log_value = (log_beta - peak).clamp(min=_FLOOR)
        log_after = (log_beta - peak + ratio.gather(-1, drawn)[..., 0]).clamp(_FLOOR, 0.0)
        targets = slice(self.request.prompt - 1, None)
        log_value, log_after = log_value[:, targets], log_after[:, targets]
        if variant == "nado":
            fit = _cross_entropy(log_after, label[:, None]).sum(1)
        else:
            fit = _cross_entropy(log_after[:, -1], label)
        return (fit + _kl(log_value[:, 1:], log_after[:, :-1]).sum(1)).mean()


def _complement(log_p):
    return torch.log(-torch.expm1(log_p))


def _cross_entropy(log_p, label):
    log_p = log_p.clamp(max=_CEILING)
    return -label * log_p - (1 - label) * _complement(log_p)


def _kl(log_a, log_b):
    log_a, log_b = log_a.clamp(max=_CEILING), log_b.clamp(max=_CEILING)
    a, not_a = torch.exp(log_a), -torch.expm1(log_a)
    return a * (log_a - log_b) + not_a * (_complement(log_a) - _complement(log_b))


def training(request: Request) -> Program:
    """Returns the program of one training step."""
    model = Training(request)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, 5e-3, (0.9, 0.99), weight_decay=0.0, fused=True)
    shape = request.batch, request.length
    tokens = torch.randint(request.model["vocab_size"], shape, device=DEVICE)
    label = torch.arange(request.batch, device=DEVICE) % 2

    def run():
        with torch.autocast(DEVICE, torch.bfloat16, enabled=request.dtype == "bfloat16"):
            loss = model(tokens, label)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait()

    with FlopCounterMode(display=False) as counter:
        run()
    counted = {
        "counted_flops": float(counter.get_total_flops()),
        "trainable_parameters": sum(each.numel() for each in trained),
    }
    return Program(run, _device_figures() | counted, _device_peak)


class Control(LogitsProcessor):
    """Adds r to the base's logits.

    The base's hidden states come through a hook, and the direction has a cache of its own; without
    `cached` both read the whole row again at every token.
    """

    def __init__(self, base: PreTrainedModel, direction: nn.Module, cached: bool):
        self.base, self.direction = base, direction
        self.cache = DynamicCache(config=direction.model.config) if cached else None
        self.newest = None  # [B, T, D] hidden states of the base's last call

    def __call__(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores [B, V] under the control, given all tokens so far [B, T]."""
        if self.cache is None:
            base = states(self.base, tokens)
        else:
            base = self.newest
            tokens = tokens[:, -base.shape[1] :]
        hidden = self.direction(tokens, base, self.cache)
        return scores + self.direction.log_r(hidden[:, -1], None)

    def keep(self, module: nn.Module, inputs: Any, out: Any) -> None:
        """The forward hook on the base's trunk."""
        self.newest = out.last_hidden_state


def generate(
    request: Request,
    base: PreTrainedModel,
    direction: nn.Module | None,
    prompts: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    """Returns new tokens [rows, N], under a direction if there is one."""
    processors, hooks = [], []
    if direction is not None:
        control = Control(base, direction, request.way == "cached head")
        processors.append(control)
        hooks.append(base.base_model.register_forward_hook(control.keep))
    try:
        out = base.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=request.length,
            logits_processor=processors,
            **options,
        )
    finally:
        for hook in hooks:
            hook.remove()
    return out[:, prompts.shape[1] :]


def decoding(request: Request) -> Program:
    """Returns a program: a call of `generate`, rollouts with labels, or beam search of the base."""
    base = random_model(request.model, request.dtype)
    direction = None
    if request.way != "generate":
        direction = (Soft if request.variant == "soft" else Nado)(request, request.dtype)
    shape = request.batch // request.samples, request.prompt
    prompts = np.random.default_rng(0).integers(0, request.model["vocab_size"], shape)
    if request.what == "beam":
        options = {"num_beams": request.beams, "do_sample": False}
    else:
        options = {"do_sample": True, "top_k": request.top_k, "top_p": request.top_p}
        options["num_return_sequences"] = request.samples

    @torch.inference_mode()
    def run():
        given = torch.tensor(prompts, device=DEVICE)
        new = generate(request, base, direction, given, **options)
        if request.what == "rollout":
            rows = np.repeat(prompts, request.samples, 0).tolist()
            return oracle(rows, new.tolist())
        _wait()
        return new

    parts = [base] if direction is None else [base, direction]
    read = sum(_step_bytes(request, part) for part in parts)
    return Program(run, _device_figures() | {"step_bytes": read}, _device_peak)


def _step_bytes(request: Request, part: nn.Module) -> int:
    """Bytes of the parameters, and of the cache as full as it is halfway."""
    sizes = getattr(part, "model", part).config
    tokens = request.batch * request.beams * (request.prompt + request.length // 2)
    values = sum(each.numel() for each in part.parameters())
    heads = getattr(sizes, "num_key_value_heads", sizes.num_attention_heads)
    width = sizes.hidden_size // sizes.num_attention_heads * heads
    cached = 2 * tokens * sizes.num_hidden_layers * width
    return (values + cached) * getattr(torch, request.dtype).itemsize


def ways(request: Request) -> list[str]:
    """Returns the ways of doing what is requested, without `recomputed head`, which is slow."""
    if request.what == "train":
        return ["torch", "peft"] if request.variant == "merge" else ["torch"]
    if request.variant == "base" or request.what == "beam":
        return ["generate"]
    return ["generate", "cached head"]


def program(request: Request) -> Program:
    """Returns the program of one way."""
    known = ways(request)
    if "cached head" in known:
        known.append("recomputed head")
    if request.way not in known:
        raise InputError(f"--peer-way {request.way}, not known here: one of {', '.join(known)}")
    return (training if request.what == "train" else decoding)(request)


def _wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _device_figures() -> dict[str, Any]:
    return {"device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"}


def _device_peak() -> int | None:
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
