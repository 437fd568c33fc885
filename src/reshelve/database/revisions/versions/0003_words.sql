-- The indexes that are there hold no words: a migration gives them some.
ALTER TABLE indexes ADD COLUMN language text NOT NULL DEFAULT 'none';
DROP INDEX indexes_once;
CREATE UNIQUE INDEX indexes_once ON indexes (collection_id, chunking_id, model_id, backend, metric, m, ef_construction,
                                               language)
    WHERE state <> 'dropped';
