"""Before and after, for people: a few plain lines for the terminal, one page for the browser."""

import html
from pathlib import Path

from dinado_jax.utils.files import validate

_ROWS = (
    ("success rate", "success_rate", "{:.1%}"),
    ("keyword coverage", "coverage", "{:.1%}"),
    ("BLEU-4", "bleu_4", "{:.1f}"),
    ("Distinct-2 (equal counts)", "distinct_2", "{:.3f}"),
    ("log-probability under the base (nats)", "log_prob_under_base", "{:.2f}"),
    ("length (tokens)", "tokens", "{:.1f}"),
    ("ended by itself", "finished", "{:.1%}"),
    ("KL to the base (nats per sequence)", "kl_to_base", "{:.2f}"),
)

_LIMITS = (
    ("no controller can have a lower KL than", "kl_floor"),
    ("efficiency (1 is perfect)", "efficiency"),
    ("the floor, prompts differing (estimate)", "kl_floor_by_prompt"),
    ("efficiency by that floor", "efficiency_by_prompt"),
)


_NUMBER = (float, type(None))


def check_summary(summary: dict, where: str, fix: str) -> None:
    """InputError unless all that a report shows of a summary are numbers, or null."""
    validate(summary, {"base": dict, "control": dict, "warnings": [str]}, where, fix)
    numbers = {side: dict.fromkeys(summary[side], _NUMBER) for side in ("base", "control")}
    shown = {key: _NUMBER for _, key in _LIMITS if key in summary}
    validate(summary, {**numbers, **shown}, where, fix)


def _table(summary: dict) -> list[tuple[str, str, str]]:
    def shown(value, form):
        return "" if value is None else form.format(value)

    def cell(side, key, form):
        return shown(summary[side].get(key), form)

    rows = [
        (label, cell("base", key, form), cell("control", key, form)) for label, key, form in _ROWS
    ]
    rows = [row for row in rows if any(row[1:])]
    rows += [(label, "", shown(summary[key], "{:.2f}")) for label, key in _LIMITS if key in summary]
    return rows


def pairs(base: list[dict], control: list[dict], count: int) -> list[tuple[dict, dict]]:
    """The first sample of the base and of the controlled model for the first few prompts."""
    firsts = [{s["prompt_id"]: s for s in reversed(samples)} for samples in (base, control)]
    shared = sorted(firsts[0].keys() & firsts[1].keys())[:count]
    return [(firsts[0][key], firsts[1][key]) for key in shared]


def plain(summary: dict, base: list[dict], control: list[dict]) -> str:
    """The report as lines for a terminal."""
    lines = [f"{'':42}{'base':>10}{'control':>10}"]
    lines += [f"{label:42}{before:>10}{after:>10}" for label, before, after in _table(summary)]
    lines += [f"warning: {line}" for line in summary["warnings"]]
    for before, after in pairs(base, control, 5):
        lines += ["", before["prompt"]]
        for name, sample in (("base", before), ("control", after)):
            lines.append(f"  {name:8} {'+' if sample['label'] > 0.5 else '-'} {sample['text']}")
    return "\n".join(lines)


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd}td.n{text-align:right}.ok{color:#06703a}.no{color:#a3261b}"
)


def write_report(path: Path, summary: dict, base: list[dict], control: list[dict]) -> None:
    """Writes a self-contained page: the table, and samples side by side."""

    def row(cells, tag="td", numbers=True):
        marks = [""] + [' class="n"' if numbers else ""] * (len(cells) - 1)
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for m, c in zip(marks, cells)) + "</tr>"

    def said(sample):
        mark = "ok" if sample["label"] > 0.5 else "no"
        return f'<span class="{mark}">{html.escape(sample["text"])}</span>'

    table = [row(("", "base", "control"), "th")]
    table += [row([html.escape(cell) for cell in cells]) for cells in _table(summary)]
    samples = [row(("prompt", "base", "control"), "th", False)]
    samples += [
        row((html.escape(before["prompt"]), said(before), said(after)), numbers=False)
        for before, after in pairs(base, control, 20)
    ]
    warnings = [f'<p class="no">{html.escape(line)}</p>' for line in summary["warnings"]]
    name = html.escape(summary["config"]["name"])
    seconds = ", ".join(f"{stage} {time:.0f}" for stage, time in summary["seconds"].items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style><h1>{name}: before and after control</h1>"
        f"<table>{''.join(table)}</table>{''.join(warnings)}<h2>Samples</h2>"
        '<p><span class="ok">satisfies</span> or <span class="no">fails</span> the oracle.</p>'
        f"<table>{''.join(samples)}</table><p>Seconds: {html.escape(seconds)}.</p></html>\n"
    )
    path.write_text(page, encoding="utf-8")
