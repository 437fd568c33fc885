"""What the features work with: the database, the stores, the open embedding models, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from reshelve.database.pins import IndexPins
from reshelve.database.pools import Database
from reshelve.embedders.pace import Pace
from reshelve.embedders.query_batches import QueryBatches
from reshelve.embedders.query_cache import QueryCache
from reshelve.embedders.registry import OpenEmbedders
from reshelve.embedders.rerankers import Rerankers
from reshelve.embedders.under_way import Flights, Purse
from reshelve.llms.chat import ChatModel
from reshelve.operations.breakers import Breakers
from reshelve.operations.now_and_then import NowAndThen
from reshelve.operations.recording import Recorder
from reshelve.operations.search_cache import SearchCache
from reshelve.operations.spare_time import SpareTime
from reshelve.settings import Settings
from reshelve.stores.opening import Stores


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """`flights` and `purses` (by index id) are shared by every task of this process that embeds.

    `llm` is None where no language model is configured.
    """

    database: Database
    stores: Stores
    embedders: OpenEmbedders
    queries: QueryBatches
    query_cache: QueryCache
    rerankers: Rerankers
    search_cache: SearchCache
    pins: IndexPins
    settings: Settings
    recorder: Recorder
    breakers: Breakers
    spare_time: SpareTime
    llm: ChatModel | None = None
    folding: NowAndThen = field(default_factory=lambda: NowAndThen(writes=64, rest=20.0))
    """Of the words: among a million passages only to look for what is to be folded takes about a second."""
    pace: Pace = field(default_factory=Pace)
    flights: Flights = field(default_factory=Flights)
    purses: dict[int, Purse] = field(default_factory=dict[int, Purse])
