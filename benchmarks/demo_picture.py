"""Draws docs/demo.svg, the picture of README, from a finished run of the demo.

python benchmarks/demo_picture.py runs/demo docs/demo.svg
"""

import html
import json
import sys
from pathlib import Path

WIDTH, LINE, BAR = 860, 22, 300
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#24292f}.m{font:13px ui-monospace,monospace}"
    ".h{font-weight:600}.ok{fill:#06703a}.no{fill:#a3261b}.q{fill:#57606a}"
)
PROMPTS = 3


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{html.escape(words)}</text>'


def bar(x: float, y: float, share: float, color: str, words: str) -> str:
    shape = f'<rect x="{x}" y="{y - 12}" width="{BAR * share:.0f}" height="15" fill="{color}"/>'
    return shape + text(x + BAR * share + 8, y, words)


def samples(folder: Path) -> list[tuple[dict, dict]]:
    """The first prompts on which the base fails and the control succeeds."""
    by_name = []
    for name in ("base", "control"):
        lines = (folder / "generate" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        by_name.append({row["prompt_id"]: row for row in reversed(rows)})
    base, control = by_name
    pairs = [(base[key], control[key]) for key in sorted(base.keys() & control.keys())]
    return [pair for pair in pairs if pair[0]["label"] <= 0.5 < pair[1]["label"]][:PROMPTS]


def draw(folder: Path) -> str:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    base, control = summary["base"], summary["control"]
    kl, floor = control["kl_to_base"], summary["kl_floor"]
    parts, y = [], 24
    rows = (
        ("success, base", base["success_rate"], "#b8c0c8", f"{base['success_rate']:.1%}"),
        ("success, control", control["success_rate"], "#1f7a4d", f"{control['success_rate']:.1%}"),
        ("least KL possible", floor / kl, "#b8c0c8", f"{floor:.2f} nats"),
        ("KL spent", 1.0, "#2f6fb3", f"{kl:.2f} nats per sequence"),
    )
    for name, share, color, words in rows:
        parts += [text(16, y, name), bar(150, y, share, color, words)]
        y += LINE
    for before, after in samples(folder):
        y += LINE // 2
        parts.append(text(16, y, before["prompt"], "h"))
        for name, sample, kind in (("base", before, "no"), ("control", after, "ok")):
            y += LINE - 2
            parts += [text(16, y, name, "q"), text(84, y, sample["text"], f"m {kind}")]
        y += LINE
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(Path(sys.argv[1])), encoding="utf-8")
