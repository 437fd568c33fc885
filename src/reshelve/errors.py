"""Every error that Reshelve raises on purpose.

ReshelveError
├── SettingsError            rag.toml or an environment variable is wrong
├── InputError               a request or a file is wrong; nothing was changed
│   ├── DocumentRefused      one row of an ingest; the rest goes on
│   └── IdempotencyConflict  the key belongs to another request
├── NotFoundError            no such collection, index, model, migration
│   └── NoIndexForModel          a search names a model that the collection has no index of
├── ModelError
│   ├── ModelDimensionConflict
│   └── ModelChangedError    the endpoint answers with another model than the registered one
├── EmbeddingError           the embedding provider failed
│   ├── EmbeddingUnavailable     try again later (429, 5xx, timeouts)
│   ├── EmbeddingRefused         this input is not accepted; another may be
│   └── EmbeddingInvalid         the answer is wrong: count, dimension, NaN, zero
├── AnswerError              the language model failed
│   ├── AnswerUnavailable        try again later (429, 5xx, timeouts)
│   └── AnswerRefused            the key, the model or the request is not accepted
├── DatabaseError
│   ├── DatabaseUnavailable
│   ├── DatabaseUnsuitable       too old, no pgvector, missing rights
│   └── SchemaError              the schema is newer or older than the program
├── StoreError
│   └── MixedSpacesError         a vector of another model or dimension than the index's
├── LeaseLost                somebody else owns the work now; the result was thrown away
├── ServiceError             a service answered what it should not
│   ├── ServiceUnavailable       it does not answer, or not yet, or no more
│   └── RequestUnderWay          the first request with this idempotency key has not ended
└── MigrationError
    ├── NothingToDo              the serving index is what the settings ask for
    ├── TransitionRefused        not from this state
    ├── GateHeld                 the proof is missing or failed
    ├── BudgetReached            the spend cap stopped the backfill; nothing is lost
    └── IndexInUse               cleanup while somebody reads the index
"""

from __future__ import annotations


class ReshelveError(Exception):
    """Root of the tree.

    `code` is stable and meant for programs, `advice` tells a person what to do next, and
    `retryable` says whether the same call may succeed later without a change.
    """

    code = "error"
    retryable = False

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message}\n{self.advice}" if self.advice else self.message


class SettingsError(ReshelveError):
    code = "settings"


class InputError(ReshelveError):
    code = "input"


class DocumentRefused(InputError):
    """One document or row that cannot be taken in; `line` is its line in the file, if it has one.

    `file`, where several were read, is the one that it is about; the message begins with it.
    """

    code = "document_refused"

    def __init__(self, message: str, *, line: int | None = None, advice: str = "", file: str = "") -> None:
        super().__init__(message, advice=advice)
        self.line = line
        self.file = file


class IdempotencyConflict(InputError):
    code = "idempotency_conflict"


class NotFoundError(ReshelveError):
    code = "not_found"


class NoIndexForModel(NotFoundError):
    code = "no_index_for_model"


class ModelError(ReshelveError):
    code = "model"


class ModelDimensionConflict(ModelError):
    """The name is registered with another dimension."""

    code = "model_dimension_conflict"

    def __init__(self, *, name: str, registered: int, requested: int) -> None:
        super().__init__(
            f"Model exists with different dimension: {name} is registered with {registered}, not {requested}",
            advice="Register the other size under a name of its own, or ask for the registered dimension.",
        )
        self.name = name
        self.registered = registered
        self.requested = requested


class ModelChangedError(ModelError):
    code = "model_changed"


class EmbeddingError(ReshelveError):
    code = "embedding"


class EmbeddingUnavailable(EmbeddingError):
    code = "embedding_unavailable"
    retryable = True


class EmbeddingRefused(EmbeddingError):
    code = "embedding_refused"


class EmbeddingInvalid(EmbeddingError):
    code = "embedding_invalid"


class AnswerError(ReshelveError):
    code = "answer"


class AnswerUnavailable(AnswerError):
    code = "answer_unavailable"
    retryable = True


class AnswerRefused(AnswerError):
    code = "answer_refused"


class DatabaseError(ReshelveError):
    code = "database"


class DatabaseUnavailable(DatabaseError):
    code = "database_unavailable"
    retryable = True


class DatabaseUnsuitable(DatabaseError):
    code = "database_unsuitable"


class SchemaError(DatabaseError):
    code = "schema"


class StoreError(ReshelveError):
    code = "store"


class MixedSpacesError(StoreError):
    """A vector that does not belong in the index: other model, other dimension, or no valid vector at all."""

    code = "mixed_spaces"


class LeaseLost(ReshelveError):
    code = "lease_lost"
    retryable = True


class ServiceError(ReshelveError):
    code = "service"


class ServiceUnavailable(ServiceError):
    code = "service_unavailable"
    retryable = True


class RequestUnderWay(ServiceError):
    code = "request_under_way"
    retryable = True


class MigrationError(ReshelveError):
    code = "migration"


class NothingToDo(MigrationError):
    code = "nothing_to_do"


class TransitionRefused(MigrationError):
    code = "transition_refused"


class GateHeld(MigrationError):
    code = "gate_held"


class BudgetReached(MigrationError):
    code = "budget_reached"


class IndexInUse(MigrationError):
    code = "index_in_use"
    retryable = True
