-- The indexes that are there store no token vectors: a migration gives them some.
ALTER TABLE indexes ADD COLUMN token_space text NOT NULL DEFAULT 'none';
DROP INDEX indexes_once;
CREATE UNIQUE INDEX indexes_once ON indexes (collection_id, chunking_id, model_id, backend, metric, m, ef_construction,
                                               language, token_space)
    WHERE state <> 'dropped';
