"""The result of a run in a sentence."""

import math

from dinado_jax.evaluation.summary import Summary


def headline(summary: Summary) -> str:
    """Says what control gained and what it cost, in plain words."""
    base, control = summary.base, summary.control
    if summary.moments:
        gained = "; ".join(
            f"the mean of {moment.feature} is {moment.control:.3g}, {moment.wanted:.4g} is wanted, "
            f"it was {moment.base:.3g} before"
            for moment in summary.moments
        )
    else:
        gained = (
            f"{control.success_rate:.1%} of texts satisfy the oracle, "
            f"{base.success_rate:.1%} did before"
        )
    most = "at most " if summary.kl_is_bound else ""
    cost = f"KL to the base {most}{control.kl_to_base:z.2f} nats"
    floor, efficiency = summary.floors.kl_floor, summary.floors.efficiency
    if math.isfinite(floor):
        cost += f", {floor:.2f} are needed"
    if math.isfinite(efficiency):
        cost += f": efficiency {efficiency:.2f}"
    sentence = f"{gained}; {cost}."
    return sentence[0].upper() + sentence[1:]
