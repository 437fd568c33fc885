"""The checklist: what is proven of a migration, and what is not, on its whole road."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import NotFoundError
from reshelve.settings import Settings
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
ROWS = 40
EMBEDDED = "everything that was there is embedded"
VERIFIED = "the new index equals the corpus"
VECTORS = "all vectors are hashing-128's, with 128 dimensions"
KEEPS_UP = "the new index keeps up with the writes"
FAST = "the new side is as fast as the old one"
ERRORS = "the new side makes no more errors than it may"
QUALITY = "the answers are not worse"
COST = "it cost what was planned"
GONE = "the old index is gone (a week after the switch, say)"


async def checked(library: reshelve.Library) -> dict[str, tuple[str, str]]:
    found = await library.checklist()
    assert len({check.what for check in found}) == len(found) == 10
    assert all(check.as_dict().keys() == {"what", "answer", "shown_by"} for check in found)
    return {check.what: (check.answer, check.shown_by) for check in found}


async def test_from_the_first_row_to_the_cleanup(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(ROWS))
        with pytest.raises(NotFoundError, match="no migration yet"):
            await library.checklist()
    target = '[rag.embedding]\nmodel = "hashing-128"\n[rag.migration]\nrange_rows = 10\nsoak_hours = 24.0\n'
    async with reshelve.connect(settings_of(target)) as library:
        await library.apply(limit=10)
        found = await checked(library)
        stable = "24 hours of stable operation at 100 %"
        assert found[EMBEDDED] == ("not proven", f"10 of {ROWS} rows backfilled")
        assert found[VERIFIED] == found[VECTORS] == ("not proven", "not verified yet")
        assert found[KEEPS_UP][0] == found[COST][0] == "proven"
        assert found[FAST] == found[ERRORS] == ("not proven", "0 live searches so far; 50 are needed")
        assert found[stable] == ("not proven", "the migration is backfilling")

        await library.apply()
        found = await checked(library)
        assert [found[what][0] for what in (EMBEDDED, VERIFIED, VECTORS, KEEPS_UP, COST)] == ["proven"] * 5
        assert f"{ROWS} entries for {ROWS} chunks, checksums equal" in found[VERIFIED][1]
        assert found[QUALITY] == ("not proven", "no judged queries: set rag.rollout.judged_queries")

        for _ in range(60):
            await library.search("a shelf")
        await library.cutover()
        for _ in range(60):
            await library.search("a shelf")
        await library.backends.recorder.flush()
        found = await checked(library)
        assert found[ERRORS] == ("proven", "0 errors in 60 searches")
        # Which side is the faster one here is left to chance.
        assert found[FAST][0] in ("proven", "wrong")
        assert found[FAST][1].endswith("(60 searches)")
        assert found[stable] == ("not proven", "0.0 hours so far")
        assert found[GONE] == ("not proven", "index 1 is kept, and still fed: reshelve cleanup")

    short = target.replace("24.0", "0.0")
    async with reshelve.connect(settings_of(short)) as library:
        assert (await library.apply()).state is State.COMPLETED
        assert (await checked(library))["0 hours of stable operation at 100 %"][0] == "proven"
        await library.cleanup()
        found = await checked(library)
        assert found[GONE] == ("proven", "dropped by reshelve cleanup")
        assert found[VERIFIED][0] == "proven"


async def test_what_is_wrong_is_called_so(settings_of: SettingsOf) -> None:
    """A failed proof, more spent than planned, and more waiting for the index than it may."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(ROWS))
    # A text embedded again differs from its stored vector in the last bits: 1.0 is more than can be asked.
    target = (
        '[rag.embedding]\nmodel = "hashing-2500"\nprice_per_million_tokens = 1.0\n'
        "[rag.migration]\nmin_sample_cosine = 1.0\n[rag.rollout]\nmax_cost_ratio = 0.5\nmax_lag_seconds = 0.000001\n"
        'schedule = "100%:36h"\n'
    )
    async with reshelve.connect(settings_of(target), worker=False) as library:
        await library.apply()
        await library.ingest({"_id": "late", "text": "a late word"}, wait=False)
        found = await checked(library)
        assert found[VERIFIED][0] == "wrong"
        assert "cosine" in found[VERIFIED][1]
        assert found[COST][0] == "wrong"
        assert found[KEEPS_UP][0] == "not proven"
        assert found[KEEPS_UP][1].startswith("1 changes behind")
        assert "36 hours of stable operation at 100 %" in found
