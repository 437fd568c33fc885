"""What the features work with: the database, the stores, the open embedding models, the settings."""

from __future__ import annotations

from dataclasses import dataclass

from reshelve.database.pins import IndexPins
from reshelve.database.pools import Database
from reshelve.embedders.registry import OpenEmbedders
from reshelve.settings import Settings
from reshelve.stores.opening import Stores


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    database: Database
    stores: Stores
    embedders: OpenEmbedders
    pins: IndexPins
    settings: Settings
