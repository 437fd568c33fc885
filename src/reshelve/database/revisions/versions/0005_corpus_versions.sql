-- How often what searches of a collection find was changed: the sum over its slots. A transaction adds one to a slot
-- that nobody holds, so that no writer waits for another.
CREATE TABLE corpus_versions (
    collection_id integer NOT NULL REFERENCES collections,
    slot bigint GENERATED ALWAYS AS IDENTITY,
    version bigint NOT NULL,
    PRIMARY KEY (collection_id, slot)
) WITH (fillfactor = 50);

-- Once a transaction and collection; what counts is in `reshelve.counted`, which ends with the transaction.
CREATE FUNCTION corpus_changed(changed integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    counted text := coalesce(nullif(current_setting('reshelve.counted', true), ''), ',');
    free bigint;
BEGIN
    IF counted LIKE '%,' || changed || ',%' THEN
        RETURN;
    END IF;
    -- A stricter transaction must not change a row that was changed since its snapshot: it takes a slot of its own.
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT slot INTO free FROM reshelve.corpus_versions
        WHERE collection_id = changed ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    IF free IS NULL THEN
        INSERT INTO reshelve.corpus_versions (collection_id, version) VALUES (changed, 1);
    ELSE
        UPDATE reshelve.corpus_versions SET version = version + 1 WHERE collection_id = changed AND slot = free;
    END IF;
    PERFORM set_config('reshelve.counted', counted || changed || ',', true);
END $$;

CREATE FUNCTION documents_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reshelve.corpus_changed(c.collection_id) FROM (SELECT DISTINCT collection_id FROM changed) c;
    IF TG_OP = 'UPDATE' THEN
        PERFORM reshelve.corpus_changed(c.collection_id) FROM (SELECT DISTINCT collection_id FROM before) c;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION chunks_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reshelve.corpus_changed(c.collection_id)
    FROM (SELECT DISTINCT k.collection_id
          FROM (SELECT DISTINCT chunking_id FROM changed) n JOIN reshelve.chunkings k ON k.id = n.chunking_id) c;
    RETURN NULL;
END $$;

CREATE FUNCTION corpus_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reshelve.corpus_changed(id) FROM reshelve.collections;
    RETURN NULL;
END $$;

CREATE TRIGGER corpus_insert AFTER INSERT ON documents REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION documents_changed();
CREATE TRIGGER corpus_update AFTER UPDATE ON documents REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION documents_changed();
CREATE TRIGGER corpus_delete AFTER DELETE ON documents REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION documents_changed();
CREATE TRIGGER corpus_truncate AFTER TRUNCATE ON documents
    FOR EACH STATEMENT EXECUTE FUNCTION corpus_truncated();
CREATE TRIGGER corpus_insert AFTER INSERT ON chunks REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER corpus_update AFTER UPDATE ON chunks REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER corpus_delete AFTER DELETE ON chunks REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER corpus_truncate AFTER TRUNCATE ON chunks
    FOR EACH STATEMENT EXECUTE FUNCTION corpus_truncated();
ALTER TABLE documents ENABLE ALWAYS TRIGGER corpus_insert;
ALTER TABLE documents ENABLE ALWAYS TRIGGER corpus_update;
ALTER TABLE documents ENABLE ALWAYS TRIGGER corpus_delete;
ALTER TABLE documents ENABLE ALWAYS TRIGGER corpus_truncate;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER corpus_insert;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER corpus_update;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER corpus_delete;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER corpus_truncate;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'reshelve_service') THEN
        GRANT SELECT, INSERT, UPDATE ON corpus_versions TO reshelve_service;
    END IF;
END $$;
