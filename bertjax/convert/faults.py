"""What is wrong with a listing of tensors, and the likeliest cause, in one line."""

import re
from collections.abc import Mapping, Sequence

from bertjax.convert.family import Family
from bertjax.convert.model import listed
from bertjax.convert.table import Copy, Match, Shape


def check_listing(
    path: str,
    family: Family,
    wanted: Mapping[str, Shape],
    found: Mapping[str, Shape],
    allowed: Sequence[str],
    families: Mapping[str, Family],
) -> None:
    """An error that lists what is missing, unexpected and mis-shaped; `allowed` may be there or not."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted and name not in allowed]
    extra = [name for name in extra if not any(re.search(pattern, name) for pattern in family.ignored)]
    odd = [name for name in wanted if name in found and tuple(found[name]) != tuple(wanted[name])]
    if not (missing or extra or odd):
        return
    parts = [f"{len(missing)} missing ({listed(missing)})"] if missing else []
    parts += [f"{len(extra)} unexpected ({listed(extra)})"] if extra else []
    if odd:
        said = [f"{name} is {list(found[name])} and not {list(wanted[name])}" for name in odd]
        parts.append(f"{len(odd)} mis-shaped ({listed(said)})")
    raise ValueError(
        f"{path}: tensors {', '.join(parts)}; {cause(family, found, missing, extra, odd, families)}"
    )


def cause(
    family: Family,
    found: Mapping[str, Shape],
    missing: Sequence[str],
    extra: Sequence[str],
    odd: Sequence[str],
    families: Mapping[str, Family],
) -> str:
    """The likeliest reason."""
    scores = {name: knows(other, found) for name, other in families.items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] > max(scores[family.name], 0.5):
        return f"these are weights of the family {best}, and config.json says {family.name}"
    layers = {int(number) for name in (*missing, *extra) for number in re.findall(r"\.(\d+)\.", name)}
    if layers and missing and not extra and not odd:
        return (
            f"the file lacks parts of layer {listed([str(n) for n in sorted(layers)])}: "
            "config.json says more layers than it has, or a shard is missing"
        )
    if layers and extra and not missing and not odd:
        return "config.json says fewer layers than the file has, or other parts: it belongs to another model"
    if odd and all("embedding" in name or name.endswith("bias") or "decoder" in name for name in odd):
        return (
            "the tables were resized after config.json was written: give the config.json that belongs to them"
        )
    if odd:
        return "config.json is of a model of another size"
    if missing and not extra:
        return "the head was never saved, or config.json names the wrong architecture: take it out of architectures"
    return "config.json names another architecture than the file has, or the file is of a changed model"


def knows(family: Family, found: Mapping[str, Shape]) -> float:
    """The share of names that a family has a row for."""
    names = [
        name
        for row in family.rows
        for name in (row.theirs if isinstance(row.theirs, tuple) else (row.theirs,))
    ]
    names += [copy.name for copy in family.copies]
    pattern = "|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in names)
    whole = re.compile(rf"({re.escape(family.base)}\.)?({pattern})")
    based = any(name.startswith(f"{family.base}.") for name in found)
    hits = sum(
        bool(whole.fullmatch(name)) and (not based or name.startswith(f"{family.base}.") or "." in name)
        for name in found
    )
    return hits / max(len(found), 1)


def copies_of(copies: Sequence[Copy], matches: Sequence[Match]) -> dict[str, str]:
    """Names that repeat another tensor of this model, and that tensor's name."""
    where = {path: name for found in matches for path, name in zip(found.ours, found.theirs, strict=False)}
    own = {name for found in matches for name in found.theirs}
    return {copy.name: where[copy.of] for copy in copies if copy.of in where and copy.name not in own}
