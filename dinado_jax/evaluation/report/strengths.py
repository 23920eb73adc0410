"""The finished control at each strength that it was sampled at."""

from dinado_jax.evaluation.summary import StrengthFigures, Summary


def of_strengths(summary: Summary) -> list[StrengthFigures]:
    """Returns the control at each strength it was sampled at, on held-out prompts, ascending; none
    if it was sampled at its own alone. Where nothing else than the control changes the base, that
    is strength 0.
    """
    if not summary.strengths:
        return []
    decode, control = summary.config["decode"], summary.control
    own = StrengthFigures(
        decode["strength"],
        control.success_rate,
        control.success_rate_error,
        control.kl_to_base,
        control.kl_to_base_error,
    )
    found = {each.strength: each for each in (*summary.strengths, own)}
    plain = {"temperature": 1, "top_k": 0, "top_p": 1, "guarantee": False, "reject": False}
    if all(decode[name] == value for name, value in plain.items()):
        base = summary.base
        zero = StrengthFigures(0.0, base.success_rate, base.success_rate_error, 0.0, 0.0)
        found.setdefault(0.0, zero)
    return [found[strength] for strength in sorted(found)]
