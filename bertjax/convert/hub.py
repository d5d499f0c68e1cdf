"""A published model by its name on the Hugging Face hub: from the cache of this machine, or fetched into it."""

import pathlib
import re

WANTED = ("*.json", "*.txt", "*.model", "*.safetensors", "*/config.json")
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(source: str) -> str:
    """The folder of a source: itself, if it is one on this machine, else that of the model of this name."""
    if pathlib.Path(source).exists():
        return source
    if not NAME.fullmatch(source) or source.startswith("."):
        raise ValueError(
            f"{source} does not exist: name a folder, a zip, or a model of the hub as OWNER/NAME"
        )
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> str:
        return str(snapshot_download(source, allow_patterns=[*WANTED, *patterns]))

    try:
        folder = pathlib.Path(fetch())
        if not any(
            folder.glob("*.safetensors")
        ):  # an older model, in the format that has to be read with care
            folder = pathlib.Path(fetch("pytorch_model*.bin"))
    except Exception as error:  # of many kinds: no network, no such model, no right to it
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{source} is no folder here and cannot be fetched from the hub ({type(error).__name__}: {reason}): "
            f"check the name and the network, or copy the folder to this machine"
        ) from None
    return str(folder)
