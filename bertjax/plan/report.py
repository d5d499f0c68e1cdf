"""A plan as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.journal import scaled
from bertjax.plan.roofline import REACHED

PARTS = ("parameters", "optimizer", "batch", "activations", "temporaries", "program")


def text(plan: Mapping[str, Any]) -> str:
    """What `--mode=plan` prints."""
    size, steps = plan["bytes_per_device"], plan["steps"]
    mesh = " x ".join(f"{axis}={n}" for axis, n in plan["mesh"].items()) or "one device"
    slices = f" in {plan['slices']} slices" if plan["slices"] > 1 else ""
    chip = plan["chip"] or plan["platform"]
    parts = f" in {plan['microbatches']} microbatches" if plan["microbatches"] > 1 else ""
    lines = [
        f"machine       {plan['topology']}: {plan['devices']} x {chip}{slices}, mesh {mesh}, rules {plan['rules']}",
        f"parameters    {plan['parameters']:,}",
        f"attention     {plan['attention']}; remat {plan['remat']}",
        "a device      " + ", ".join(f"{name} {gigabytes(size[name])}" for name in PARTS if size[name]),
        f"memory        {memory(plan)}",
        f"a step        {plan['rows']} rows x {plan['length']} = {plan['tokens_per_step']:,} token slots{parts}, "
        f"{scaled(plan['flops_per_step'])}FLOP, {scaled(plan['flops_per_token'])}FLOP a token",
    ]
    if plan["compile_seconds"] is not None:
        lines.append(f"compiled in   {plan['compile_seconds']} s")
    if plan["collectives"]:
        source = "" if plan["read"] else " (predicted, not compiled)"
        lines.append(f"collectives of a step and device{source}:")
        lines += columns(
            ("kind", "mesh axis", "devices", "count", "bytes", "sent"),
            [
                (
                    row["kind"],
                    row["axis"],
                    row["group"],
                    f"{row['count']:,}",
                    f"{scaled(row['bytes'])}B",
                    f"{scaled(row['wire'])}B",
                )
                for row in plan["collectives"]
            ],
        )
    elif plan["devices"] > 1:
        lines.append("collectives   none")
    if guess := plan.get("estimate"):
        times = ", ".join(
            f"{name} {milliseconds(guess[f'{name}_seconds'])}" for name in ("compute", "memory", "network")
        )
        lines += [
            f"estimate      {milliseconds(guess['step_seconds'])} a step, MFU {guess['mfu']:.0%}: an estimate, not a "
            f"measurement ({milliseconds(guess['best_seconds'])} if all communication were hidden)",
            f"              roofline: {times}; products at {REACHED:.0%} of the peak",
            f"              {steps:,} steps: {guess['run_hours']:,.1f} hours, {guess['chip_hours']:,.0f} chip-hours",
        ]
    return "\n".join(lines)


def altogether(phases: Sequence[Mapping[str, Any]]) -> str:
    """The time of all phases of a run."""
    guesses = [phase["estimate"] for phase in phases if "estimate" in phase]
    if len(guesses) < len(phases):
        return f"all phases    {sum(phase['steps'] for phase in phases):,} steps"
    hours, chip_hours = (sum(guess[name] for guess in guesses) for name in ("run_hours", "chip_hours"))
    return f"all phases    {hours:,.1f} hours, {chip_hours:,.0f} chip-hours: an estimate"


def memory(plan: Mapping[str, Any]) -> str:
    """Whether it fits, or what would."""
    total = plan["bytes_per_device"]["total"]
    if "memory" not in plan:
        return f"{gigabytes(total)} a device; how much there is is not known"
    judged = plan["memory"]
    available = judged["available"]
    if judged["fits"]:
        return f"fits: {gigabytes(total)} of {gigabytes(available)} ({1 - judged['used']:.0%} to spare)"
    return f"does not fit: needs {gigabytes(total)} of {gigabytes(available)}; {advice(judged['advice'])}"


def advice(found: Mapping[str, Any]) -> str:
    """What to set."""
    if not found["settings"]:
        return "no setting that saves memory is left: take more chips, or chips with more memory"
    settings = " ".join(f"--set {setting}" for setting in found["settings"])
    predicted = gigabytes(found["predicted"])
    if found["enough"]:
        return f"try {settings} (about {predicted})"
    return f"even {settings} would take about {predicted}: take more chips, or chips with more memory"


def searched(result: Mapping[str, Any]) -> str:
    """What `--search` prints at the end."""
    lines = [
        f"{result['legal']} legal combinations of mesh, rules, remat and microbatches on {result['topology']}; "
        f"{result['roomy']} are predicted to fit; compiled: {len(result['ranked'])}",
        *columns(
            ("mesh", "rules", "remat", "parts", "memory", "step", "MFU", "sent"),
            [
                (
                    " ".join(f"{axis}={n}" for axis, n in one["mesh"].items()) or "one device",
                    one["rules"],
                    one["remat"],
                    one["microbatches"],
                    gigabytes(one["bytes"]) if one["fits"] else f"{gigabytes(one['bytes'])}: too much",
                    milliseconds(one["step_seconds"]),
                    f"{one['mfu']:.0%}",
                    f"{scaled(one['wire'])}B",
                )
                for one in result["ranked"]
            ],
        ),
        "step and MFU are estimates of a roofline, not measurements",
    ]
    if result["settings"] is None:
        lines.append(f"none fits: {result['advice']}")
    else:
        lines.append("use           " + " ".join(f"--set {setting}" for setting in result["settings"]))
    return "\n".join(lines)


def columns(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table with aligned columns; the first two are words, the rest numbers."""
    cells = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def gigabytes(number: float) -> str:
    """Bytes as the compiler counts memory, in powers of two."""
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"


def milliseconds(seconds: float) -> str:
    """A time of a step."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
