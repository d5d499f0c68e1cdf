"""The model card of an exported folder: what it was trained on, how well it did, what it is, how to load it."""

import json
import pathlib
from typing import Any

from bertjax import settings
from bertjax.config import CHOICES
from bertjax.convert.writing import Plan, class_of

METRICS = "metrics.jsonl"


def model_card(plan: Plan, *, name: str, workdir: str, step: int) -> str:
    """README.md."""
    model, config = plan.model, plan.model.config
    auto = class_of(plan.family.architectures[plan.architecture])
    learned = config.tasks and not model.about.get("family")
    lines = [
        "---",
        "library_name: transformers",
        "tags: [" + ", ".join(["bertjax", plan.family.name, *(task.name for task in config.tasks)]) + "]",
        "---",
        "",
        f"# {name}",
        "",
        f"A `{plan.class_name}` written by bertjax"
        + (f", from step {step:,} of a run." if learned else f", from {model.about.get('source')}."),
        "",
        "## How to load it",
        "",
        "```python",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'model = {auto}.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
        "",
    ]
    if plan.embed is not None:
        lines += [
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            f'vectors = SentenceTransformer("{name}").encode(["A text.", "Another."])',
            "```",
            "",
        ]
    lines += ["```python", "import bertjax", "", f'bundle = bertjax.load("{name}")', "```", ""]
    lines += ["## Data", "", *_data(plan, learned=bool(learned)), ""]
    lines += ["## Metrics", "", *_metrics(pathlib.Path(workdir)), ""]
    lines += ["## Settings", "", "| setting | value |", "|---|---|"]
    lines += [
        f"| `model.{path}` | `{value}` |" for path, value, _ in settings.describe(config.model, CHOICES)
    ]
    lines += [f"| head `{head.name}` | `{settings.to_dict(head, CHOICES)}` |" for head in config.heads]
    if plan.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in plan.notes)]
    return "\n".join(lines) + "\n"


def _data(plan: Plan, *, learned: bool) -> list[str]:
    config, tokenizer = plan.model.config, plan.model.tokenizer
    if not learned:
        found = [f"What {plan.model.about.get('source')} was trained on."]
    else:
        tasks = ", ".join(task.name for task in config.tasks)
        rows = f"rows of {config.data.length} tokens, {config.train.batch_size} in an update"
        found = [f"Corpus `{config.data.corpus}`, {rows}, {config.train.steps:,} updates of {tasks}."]
    if tokenizer is not None:
        found += ["", f"Tokenizer: {tokenizer.kind}, {tokenizer.vocabulary.size:,} tokens."]
    return found


def _metrics(workdir: pathlib.Path) -> list[str]:
    """The result of the run, or the last evaluation that it wrote down."""
    found: dict[str, Any] = {}
    if (workdir / "result.json").is_file():
        found = json.loads((workdir / "result.json").read_text())
    elif (workdir / METRICS).is_file():
        for line in (workdir / METRICS).read_text().splitlines():
            values = {name: value for name, value in json.loads(line).items() if name.startswith("heldout_")}
            found = values or found
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    if not numbers:
        return ["None were measured."]
    return [
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in numbers.items()),
    ]
