"""The door: from a name in rag.toml, or from a registered model, to an embedder."""

from __future__ import annotations

import asyncio
import difflib
import re
from pathlib import Path

from reshelve.domain.models import EmbeddingModel
from reshelve.embedders.hashing import HashingEmbedder
from reshelve.embedders.openai_models import OPENAI_MODELS
from reshelve.embedders.protocol import Embedder
from reshelve.embedders.weights import MINILM, hub_directory, is_hub_name, minilm_directory
from reshelve.errors import ModelChangedError, ModelError, NotFoundError
from reshelve.settings import EmbeddingSettings

_HASHING = re.compile(r"hashing-(\d+)")
_FORMS = (
    f"A model is {MINILM}, hashing-<dimension>, a directory, a Hugging Face name (owner/name), "
    'or any name with provider = "openai".'
)


async def open_embedder(settings: EmbeddingSettings, *, dimensions: int | None = None) -> Embedder:
    """The embedder that [rag.embedding] names, of `dimensions` where the model can be had in several sizes.

    Raises NotFoundError for a name that stands for nothing, ModelError for a dimension that the model does not have and
    for files that do not make a model, SettingsError for a missing key, and what the provider raises.
    """
    provider = settings.provider if settings.provider != "auto" else _provider_of(settings)
    if provider == "openai":
        from reshelve.embedders.openai import open_openai

        return await open_openai(settings, dimensions=dimensions)
    embedder = _open_hashing(settings) if provider == "hashing" else await asyncio.to_thread(_open_bert, settings)
    model = embedder.model
    if dimensions not in (None, model.dimension):
        await embedder.aclose()
        raise ModelError(
            f"{model.name} has {model.dimension} dimensions, not {dimensions}",
            advice=f"Leave rag.vector_storage.dimensions out, or set it to {model.dimension}.",
        )
    return embedder


async def reopen_embedder(model: EmbeddingModel, *, location: str, settings: EmbeddingSettings) -> Embedder:
    """The embedder of a registered model. Of `settings`, only how to talk to the provider is used.

    Raises ModelChangedError when what is found does not make the registered model's vectors. Behind an endpoint that
    cannot be seen from outside: compare the canary.
    """
    if model.provider == "openai":
        from reshelve.embedders.openai import reopen_openai

        return reopen_openai(model, location=location, settings=settings)
    same = settings.model_copy(
        update={
            "model": model.name,
            "query_prefix": model.query_prefix,
            "document_prefix": model.document_prefix,
            "price_per_million_tokens": model.price_per_million_tokens,
        }
    )
    if model.provider == "hashing":
        found: Embedder = _open_hashing(same)
    else:
        found = await asyncio.to_thread(_open_bert, same, name=model.name, location=location)
    if found.model.fingerprint != model.fingerprint:
        await found.aclose()
        raise ModelChangedError(
            f"{model.name} is registered with revision {model.revision} and {model.dimension} dimensions; "
            f"{location or 'this program'} has revision {found.model.revision} and {found.model.dimension} dimensions",
            advice="Bring the registered files back, or migrate to the new ones under a name of their own.",
        )
    return found


def _provider_of(settings: EmbeddingSettings) -> str:
    name = settings.model
    if not name.strip():
        raise _unknown("the empty name")
    if _HASHING.fullmatch(name):
        return "hashing"
    if name == MINILM or Path(name).expanduser().is_dir():
        return "bert"
    if name in OPENAI_MODELS or settings.base_url is not None:
        return "openai"
    if is_hub_name(name) and not name.startswith((".", "/", "~")):
        return "bert"
    raise _unknown(name)


def _unknown(name: str) -> NotFoundError:
    near = difflib.get_close_matches(name, [MINILM, "hashing-512", *OPENAI_MODELS], n=1, cutoff=0.5)
    guess = f"Did you mean {near[0]}? " if near else ""
    return NotFoundError(f"No embedding model is called {name}", advice=guess + _FORMS)


def _open_hashing(settings: EmbeddingSettings) -> HashingEmbedder:
    named = _HASHING.fullmatch(settings.model)
    if named is None:
        raise _unknown(settings.model)
    return HashingEmbedder(
        int(named[1]),
        query_prefix=settings.query_prefix or "",
        document_prefix=settings.document_prefix or "",
        price_per_million_tokens=settings.price_per_million_tokens or 0.0,
    )


def _open_bert(settings: EmbeddingSettings, *, name: str | None = None, location: str | None = None) -> Embedder:
    """`name` and `location` are a registered model's; without them they are found out. Blocking."""
    from reshelve.embedders.bert import open_bert

    path, found_name, found_location = _files(location or settings.model)
    return open_bert(
        path,
        name=name or found_name,
        location=found_location,
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
        price_per_million_tokens=settings.price_per_million_tokens or 0.0,
    )


def _files(place: str) -> tuple[Path, str, str]:
    """The directory, and the model's name and location."""
    if place == MINILM:
        return minilm_directory(), MINILM, ""
    directory = Path(place).expanduser()
    if directory.is_dir():
        return directory, directory.resolve().name, str(directory.resolve())
    if directory.is_absolute():
        raise NotFoundError(f"There is no model directory {place}", advice="Bring it back, or name where it is now.")
    if not is_hub_name(place):
        raise _unknown(place)
    path, location = hub_directory(place)
    return path, place.partition("@")[0], location
