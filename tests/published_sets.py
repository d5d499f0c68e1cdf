"""Files in the layouts of published sets, made of made-up words: what the tests of suites read."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bertjax.data.labelled.made_up import WORDS

TRAIN, HELD_OUT, TEST = 48, 16, 6


def words(draws: random.Random, number: int, *, first: bool | None = None) -> str:
    """Made-up words; `first` takes them of the first half of all, or of the second."""
    half = len(WORDS) // 2
    pool = WORDS if first is None else WORDS[:half] if first else WORDS[half:]
    return " ".join(draws.choice(pool) for _ in range(number))


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_objects(path: Path, objects: Iterable[Any]) -> None:
    write(path, (json.dumps(one, ensure_ascii=False) for one in objects))


def labels(number: int, *, seed: int = 0) -> list[bool]:
    """Both classes, in any order."""
    flags = [index % 2 == 0 for index in range(number)]
    random.Random(seed).shuffle(flags)
    return flags


# ---------------------------------------------------------------------------------------------- SuperGLUE


def entailments(path: Path, names: Sequence[str], *, left: str, right: str, files: dict[str, int]) -> None:
    """RTE, CB, AX: two texts and the name of a class; those to test have none, but for the diagnostic sets."""
    for file, number in files.items():
        draws, objects = random.Random(file), []
        for index, flag in enumerate(labels(number)):
            one = {left: words(draws, 6, first=flag), right: words(draws, 4), "idx": index}
            if file != "test":
                one["label"] = names[0 if flag else 1 + index % (len(names) - 1)]
            objects.append(one)
        write_objects(path / f"{file}.jsonl", objects)


def multirc(path: Path, files: dict[str, int]) -> None:
    """A passage a line, with two questions of two and three answers."""
    for file, number in files.items():
        draws, objects = random.Random(file), []
        answer = question = 0
        for index in range(number):
            questions = []
            for size in (2, 3):
                answers = []
                for _ in range(size):
                    right = draws.random() < 0.5
                    one = {"text": words(draws, 3, first=right), "idx": answer}
                    answers.append(one | ({} if file == "test" else {"label": int(right)}))
                    answer += 1
                questions.append({"question": words(draws, 4), "answers": answers, "idx": question})
                question += 1
            objects.append(
                {"idx": index, "version": 1.1, "passage": {"text": words(draws, 8), "questions": questions}}
            )
        write_objects(path / f"{file}.jsonl", objects)


def record(path: Path, files: dict[str, int]) -> None:
    """An article a line, with three entities, one of them twice, and a query with a gap."""
    for file, number in files.items():
        draws, objects = random.Random(file), []
        for index in range(number):
            names = [words(draws, 1, first=index == 0) + f"{place}" for place, index in enumerate((0, 1, 1))]
            text = f"{names[0]} {words(draws, 3)}\n@highlight\n{names[1]} {names[2]} {names[1]}"
            spans, start = [], 0
            for name in (*names, names[1]):
                start = text.index(name, start)
                spans.append({"start": start, "end": start + len(name) - 1})
                start += len(name)
            answers = [{"text": names[0], **spans[0]}]
            query = {"query": f"{words(draws, 3)} @placeholder {words(draws, 2)}", "idx": 100 + index}
            query |= {} if file == "test" else {"answers": answers}
            passage = {"text": text, "entities": spans}
            objects.append({"source": "Daily mail", "passage": passage, "qas": [query], "idx": index})
        write_objects(path / f"{file}.jsonl", objects)


def wic(path: Path, files: dict[str, int]) -> None:
    for file, number in files.items():
        draws, objects = random.Random(file), []
        for index, flag in enumerate(labels(number)):
            word = words(draws, 1)
            sides = [f"{words(draws, 3)} {word} {words(draws, 2, first=flag)}" for _ in range(2)]
            starts = [len(" ".join(side.split(" ")[:3])) + 1 for side in sides]
            one: dict[str, Any] = {"word": word, "idx": index, "version": 1.1}
            for place, (side, start) in enumerate(zip(sides, starts, strict=True), 1):
                one |= {f"sentence{place}": side, f"start{place}": start, f"end{place}": start + len(word)}
            objects.append(one | ({} if file == "test" else {"label": flag}))
        write_objects(path / f"{file}.jsonl", objects)


def wsc(path: Path, files: dict[str, int]) -> None:
    for file, number in files.items():
        draws, objects = random.Random(file), []
        for index, flag in enumerate(labels(number)):
            some = words(draws, 9, first=flag).split()
            target = {
                "span1_text": " ".join(some[1:3]),
                "span1_index": 1,
                "span2_text": some[6].upper(),  # as in the set, not to the letter what the text has
                "span2_index": 6,
            }
            one = {"text": " ".join(some), "target": target, "idx": index}
            objects.append(one | ({} if file == "test" else {"label": flag}))
        write_objects(path / f"{file}.jsonl", objects)


def boolq(path: Path, files: dict[str, int]) -> None:
    for file, number in files.items():
        draws, objects = random.Random(file), []
        for index, flag in enumerate(labels(number)):
            one = {"question": words(draws, 4), "passage": words(draws, 8, first=flag), "idx": index}
            objects.append(one | ({} if file == "test" else {"label": flag}))
        write_objects(path / f"{file}.jsonl", objects)


def copa(path: Path, files: dict[str, int]) -> None:
    for file, number in files.items():
        draws, objects = random.Random(file), []
        for index, flag in enumerate(labels(number)):
            one = {
                "premise": words(draws, 4),
                "choice1": words(draws, 3, first=not flag),
                "choice2": words(draws, 3, first=flag),
                "question": "cause" if index % 2 else "effect",
                "idx": index,
            }
            objects.append(one | ({} if file == "test" else {"label": int(flag)}))
        write_objects(path / f"{file}.jsonl", objects)


def superglue(path: Path) -> Path:
    """All sets of SuperGLUE."""
    files = {"train": TRAIN, "val": HELD_OUT, "test": TEST}
    few = {"train": TRAIN // 4, "val": HELD_OUT // 4, "test": 2}
    names = ("entailment", "not_entailment")
    entailments(path / "RTE", names, left="premise", right="hypothesis", files=files)
    entailments(path / "AX-b", names, left="sentence1", right="sentence2", files={"AX-b": TEST})
    entailments(path / "AX-g", names, left="premise", right="hypothesis", files={"AX-g": TEST})
    entailments(
        path / "CB",
        (*("entailment", "contradiction"), "neutral"),
        left="premise",
        right="hypothesis",
        files=files,
    )
    boolq(path / "BoolQ", files)
    copa(path / "COPA", files)
    multirc(path / "MultiRC", few)
    record(path / "ReCoRD", few)
    wic(path / "WiC", files)
    wsc(path / "WSC", files)
    return path


# ---------------------------------------------------------------------------------------------- others


def race(path: Path) -> Path:
    """An article a file, in two folders a split."""
    for split, number in (("train", 12), ("dev", 4), ("test", 2)):
        for index in range(number):
            level = ("middle", "high")[index % 2]
            draws = random.Random(f"{split} {index}")
            right = [draws.randrange(4) for _ in range(2)]
            options = [[words(draws, 2, first=place == one) for place in range(4)] for one in right]
            article = {
                "answers": ["ABCD"[one] for one in right],
                "options": options,
                "questions": [f"{words(draws, 3)} _ ?", words(draws, 4)],
                "article": f"{words(draws, 6)}\n{words(draws, 4)}",
                "id": f"{level}{index}.txt",
            }
            write(path / split / level / f"{index}.txt", [json.dumps(article)])
    return path


SWAG_HEAD = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"


def swag(path: Path) -> Path:
    """Commas between, quotes around what has one, and no name for the first column."""
    for split, number in (("train", TRAIN), ("val", HELD_OUT)):
        draws, lines = random.Random(split), [SWAG_HEAD]
        for index in range(number):
            right, first, start = draws.randrange(4), words(draws, 4), words(draws, 1)
            endings = [f'"{words(draws, 2, first=place == right)}, {words(draws, 1)}."' for place in range(4)]
            cells = (f"lsmdc{index}", index, f"{first} {start}", first, start, "gold", *endings, right)
            lines.append(",".join(map(str, (index, *cells))))
        write(path / f"{split}.csv", lines)
    return path


XNLI_NAMES = (
    "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 "
    "sentence2 promptID pairID genre label1 label2 label3 label4 label5 sentence1_tokenized sentence2_tokenized match"
)
XNLI_HEAD = XNLI_NAMES.split(" ")
CLASSES = ("entailment", "neutral", "contradiction")


def xnli(path: Path, languages: Sequence[str] = ("en", "sw", "zh")) -> Path:
    """The sets to judge by with all languages in a file, and a translated training set for each."""
    for which in ("dev", "test"):
        lines = ["\t".join(XNLI_HEAD)]
        for language in languages:
            draws = random.Random(f"{which} {language}")
            for index in range(9):
                row = dict.fromkeys(XNLI_HEAD, "")
                row |= {"language": language, "gold_label": CLASSES[index % 3], "pairID": str(index)}
                row |= {
                    "sentence1": f'"{words(draws, 5)}',
                    "sentence2": words(draws, 3),
                }  # a quote is a character
                lines.append("\t".join(row.values()))
        write(path / "XNLI-1.0" / f"xnli.{which}.tsv", lines)
    for language in languages:
        draws = random.Random(language)
        lines = ["premise\thypo\tlabel"]
        for index in range(TRAIN):
            name = (*CLASSES[:2], "contradictory")[index % 3]
            lines.append(f"{words(draws, 5)}\t{words(draws, 3)}\t{name}")
        write(path / "XNLI-MT-1.0" / "multinli" / f"multinli.train.{language}.tsv", lines)
    return path


def sts(path: Path) -> Path:
    """STS-B as GLUE has it, and two years of SemEval, of which a pair was not judged."""
    names = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
    for split, number in (("train", TRAIN), ("dev", HELD_OUT)):
        draws, lines = random.Random(split), [names.replace(" ", "\t")]
        for index in range(number):
            same = draws.randrange(6)
            first = words(draws, 5)
            second = " ".join([*first.split()[:same], *words(draws, 5 - same).split()]) if same < 5 else first
            cells = (index, "g", "f", "2012", index, "s", "s", first, second, f"{same:.3f}")
            lines.append("\t".join(map(str, cells)))
        write(path / "STS-B" / f"{split}.tsv", lines)
    for folder, parts in (("STS12-en-test", ("MSRpar", "SMTeuroparl")), ("STS16-en-test", ("plagiarism",))):
        for part in parts:
            draws = random.Random(part)
            texts = [words(draws, 4) for _ in range(6)]
            pairs = [f"{one}\t{words(draws, 4)}" for one in texts]
            scores = [f"{draws.random() * 5:.1f}" for _ in texts]
            scores[2] = ""
            write(path / "STS" / folder / f"STS.input.{part}.txt", pairs)
            write(path / "STS" / folder / f"STS.gs.{part}.txt", scores)
    return path


def chinese(path: Path) -> Path:
    """Four sets: two with tabs between, two with an object a line."""
    for split, number in (("train", TRAIN), ("dev", HELD_OUT), ("test", TEST)):
        draws = random.Random(split)
        reviews = [f"{int(flag)}\t{words(draws, 7, first=flag)}" for flag in labels(number)]
        write(path / "chnsenticorp" / f"{split}.tsv", ["label\ttext_a", *reviews])
        pairs = [f"{words(draws, 4, first=flag)}\t{words(draws, 4)}\t{int(flag)}" for flag in labels(number)]
        names = ["text_a\ttext_b\tlabel"] if split == "train" else []  # which of two releases have
        write(path / "lcqmc" / f"{split}.tsv", [*names, *pairs])
        known = split != "test"
        afqmc = [
            {"sentence1": words(draws, 4, first=flag), "sentence2": words(draws, 4)}
            | ({"label": str(int(flag))} if known else {"id": index})
            for index, flag in enumerate(labels(number))
        ]
        write_objects(path / "afqmc_public" / f"{split}.json", afqmc)
        tnews = [
            {"sentence": words(draws, 7, first=flag), "keywords": ""}
            | ({"label": "100" if flag else "116", "label_desc": "news"} if known else {"id": index})
            for index, flag in enumerate(labels(number))
        ]
        write_objects(path / "tnews_public" / f"{split}.json", tnews)
    return path
