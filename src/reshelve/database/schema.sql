-- The declared schema. The revisions together must equal it; a test compares the two.

CREATE TABLE collections (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    tenant text NOT NULL DEFAULT '',
    external_id text NOT NULL,
    title text NOT NULL DEFAULT '',
    content text NOT NULL,
    format text NOT NULL DEFAULT 'text',
    metadata jsonb NOT NULL DEFAULT '{}',
    content_hash uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Pages of a PDF or rows of a table: [start, number] each, in order.
    sections jsonb NOT NULL DEFAULT '[]',
    UNIQUE (collection_id, tenant, external_id)
);
CREATE INDEX documents_by_metadata ON documents USING gin (metadata jsonb_path_ops);

-- One way of cutting a collection's documents. While live, every ingest cuts its documents this way too.
CREATE TABLE chunkings (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    fingerprint text NOT NULL,
    strategy text NOT NULL,
    chunk_size integer NOT NULL,
    max_chunk_size integer NOT NULL,
    overlap integer NOT NULL,
    tokenizer text NOT NULL,
    live boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    min_chunk_size integer NOT NULL DEFAULT 0,
    -- NULL: as for other documents.
    csv_chunk_tokens integer,
    csv_chunk_max_tokens integer,
    pdf_chunk_tokens integer,
    pdf_chunk_max_tokens integer,
    UNIQUE (collection_id, fingerprint)
);

-- Immutable and content-addressed: a changed text is another chunk. Only the place in the document may move.
CREATE TABLE chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document_id bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
    chunking_id integer NOT NULL REFERENCES chunkings,
    content text NOT NULL,
    content_hash uuid NOT NULL,
    token_count integer NOT NULL,
    ordinal integer NOT NULL,
    start_char integer NOT NULL,
    end_char integer NOT NULL,
    -- page, last_page, row, last_row, headings: those that there are.
    place jsonb NOT NULL DEFAULT '{}',
    UNIQUE (document_id, chunking_id, content_hash)
);
CREATE INDEX chunks_by_chunking ON chunks (chunking_id, id);
CREATE INDEX chunks_by_content_hash ON chunks (content_hash);

CREATE TABLE embedding_models (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name text NOT NULL,
    provider text NOT NULL,
    dimension integer NOT NULL,
    fingerprint text NOT NULL UNIQUE,
    definition jsonb NOT NULL,
    location text NOT NULL DEFAULT '',
    price_per_million_tokens double precision NOT NULL DEFAULT 0,
    canary bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE indexes (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    chunking_id integer NOT NULL REFERENCES chunkings,
    model_id integer NOT NULL REFERENCES embedding_models,
    backend text NOT NULL,
    metric text NOT NULL,
    m integer NOT NULL,
    ef_construction integer NOT NULL,
    state text NOT NULL DEFAULT 'filling' CHECK (state IN ('filling', 'ready', 'dropped')),
    -- Transactions below this one may have written chunks without the index being known.
    registered_xid xid8,
    -- The backfill's cursors; NULL when there is nothing more to divide.
    next_document bigint DEFAULT 0,
    next_chunk bigint DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz,
    -- How its words are stemmed; 'none': it is not searched by words.
    language text NOT NULL DEFAULT 'none',
    -- Which model's token vectors are stored beside it; 'none': there are none.
    token_space text NOT NULL DEFAULT 'none'
);
CREATE UNIQUE INDEX indexes_once ON indexes (collection_id, chunking_id, model_id, backend, metric, m, ef_construction,
                                               language, token_space)
    WHERE state <> 'dropped';

CREATE SEQUENCE route_epochs;

-- Which indexes answer whom. Tenant '' is everybody who has no route of their own. A candidate answers `share`
-- millionths of the units; after the switch the index that served before stays as `previous` until the soak is over.
CREATE TABLE routes (
    collection_id integer NOT NULL REFERENCES collections,
    serving_index_id integer NOT NULL REFERENCES indexes,
    epoch bigint NOT NULL DEFAULT nextval('route_epochs'),
    changed_at timestamptz NOT NULL DEFAULT now(),
    tenant text NOT NULL DEFAULT '',
    candidate_index_id integer REFERENCES indexes,
    previous_index_id integer REFERENCES indexes,
    share integer NOT NULL DEFAULT 0 CHECK (share BETWEEN 0 AND 1000000),
    salt text NOT NULL DEFAULT '',
    sticky_by text NOT NULL DEFAULT 'user' CHECK (sticky_by IN ('user', 'session', 'tenant')),
    PRIMARY KEY (collection_id, tenant)
);

-- How often what searches of a collection find was changed: the sum over its slots. A transaction adds one to a slot
-- that nobody holds, so that no writer waits for another.
CREATE TABLE corpus_versions (
    collection_id integer NOT NULL REFERENCES collections,
    slot bigint GENERATED ALWAYS AS IDENTITY,
    version bigint NOT NULL,
    PRIMARY KEY (collection_id, slot)
) WITH (fillfactor = 50);

-- What changed, appended by the triggers below in the changing transaction.
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chunking_id integer,
    chunk_id bigint,
    kind text NOT NULL CHECK (kind IN ('added', 'removed', 'truncated')),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The same events, once for each live index that has to hear of them.
CREATE TABLE index_queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_id integer NOT NULL REFERENCES indexes,
    chunk_id bigint,
    kind text NOT NULL CHECK (kind IN ('added', 'removed', 'truncated')),
    xid xid8 NOT NULL,
    at timestamptz NOT NULL,
    lease bigint,
    leased_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    refusal text
) WITH (fillfactor = 70);
CREATE INDEX index_queue_by_index ON index_queue (index_id, id);

CREATE SEQUENCE leases;

-- What was there before an index was registered, divided. `kind` says whether lo..hi are chunks to embed or
-- documents to cut.
CREATE TABLE backfill_ranges (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_id integer NOT NULL REFERENCES indexes,
    kind text NOT NULL CHECK (kind IN ('documents', 'chunks')),
    lo bigint NOT NULL,
    hi bigint NOT NULL,
    rows integer NOT NULL,
    lease bigint,
    leased_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    done_at timestamptz
);
CREATE INDEX backfill_ranges_open ON backfill_ranges (index_id, id) WHERE done_at IS NULL;

-- What an index outside PostgreSQL holds.
CREATE TABLE ledger (
    index_id integer NOT NULL REFERENCES indexes,
    chunk_id bigint NOT NULL,
    content_hash uuid NOT NULL,
    PRIMARY KEY (index_id, chunk_id)
);

-- Vectors that were paid for and that no index holds: not yet, or no more.
CREATE TABLE spare_vectors (
    fingerprint text NOT NULL,
    content_hash uuid NOT NULL,
    embedding bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (fingerprint, content_hash)
);

CREATE TABLE migrations (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    tenant text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'planned',
    resume_state text,
    source_index_id integer NOT NULL REFERENCES indexes,
    target_index_id integer REFERENCES indexes,
    target jsonb NOT NULL,
    plan jsonb NOT NULL,
    engine_version integer NOT NULL,
    budget_usd double precision,
    max_rate double precision,
    embedded_rows bigint NOT NULL DEFAULT 0,
    reused_rows bigint NOT NULL DEFAULT 0,
    embedded_tokens bigint NOT NULL DEFAULT 0,
    spent_usd double precision NOT NULL DEFAULT 0,
    verification jsonb,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    soaking_since timestamptz,
    cleaned_at timestamptz,
    -- The rollout's schedule, [{percent, hold_seconds}]; NULL where a person takes the steps.
    steps jsonb,
    driven_by text NOT NULL DEFAULT 'person' CHECK (driven_by IN ('person', 'service')),
    step_since timestamptz,
    -- What the gates saw last, and what they said.
    evidence jsonb NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX migrations_one_active ON migrations (collection_id, tenant)
    WHERE state NOT IN ('completed', 'rolled_back');

CREATE TABLE migration_journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration_id integer NOT NULL REFERENCES migrations,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    before text,
    after text,
    facts jsonb NOT NULL DEFAULT '{}'
);

-- What searches did, in buckets of time: counters and histograms that add up, however many processes write them.
-- `bin` is a histogram's bin, `total` the sum of what was counted.
CREATE TABLE figures (
    collection_id integer NOT NULL REFERENCES collections,
    tenant text NOT NULL,
    index_id integer NOT NULL REFERENCES indexes,
    arm text NOT NULL CHECK (arm IN ('serving', 'candidate')),
    name text NOT NULL,
    at timestamptz NOT NULL,
    seconds integer NOT NULL,
    bin integer NOT NULL DEFAULT 0,
    count bigint NOT NULL,
    total double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (collection_id, at, tenant, index_id, arm, name, bin)
);

CREATE TABLE circuit_breakers (
    process text NOT NULL,
    index_id integer NOT NULL REFERENCES indexes,
    state text NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    failures integer NOT NULL,
    reason text,
    changed_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (process, index_id)
);

CREATE TABLE recent_queries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    tenant text NOT NULL,
    query text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX recent_queries_by_time ON recent_queries (collection_id, at);

-- Which result was used.
CREATE TABLE feedback (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    tenant text NOT NULL,
    search_id uuid NOT NULL,
    chunk_id bigint NOT NULL,
    index_id integer NOT NULL REFERENCES indexes,
    interleaved boolean NOT NULL DEFAULT false,
    unit text,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (search_id, chunk_id)
);
CREATE INDEX feedback_by_time ON feedback (collection_id, at);

CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    collection_id integer REFERENCES collections,
    source text NOT NULL CHECK (source IN ('webhook', 'gate', 'breaker', 'migration')),
    type text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
    value double precision,
    threshold double precision,
    message text NOT NULL DEFAULT '',
    outcome text NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz
);
CREATE INDEX alerts_by_time ON alerts (at);

CREATE TABLE baselines (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections,
    name text NOT NULL,
    index_id integer NOT NULL REFERENCES indexes,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    figures jsonb NOT NULL,
    UNIQUE (collection_id, name)
);

-- A write that comes again with the same key gets the answer of the first time.
CREATE TABLE idempotency_keys (
    key text NOT NULL,
    operation text NOT NULL,
    request_hash text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status integer,
    response jsonb,
    PRIMARY KEY (key, operation)
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (started_at);

CREATE VIEW embedding_migration_status AS
SELECT m.id, c.name AS collection, m.tenant, m.state, sm.model_name AS from_model, tm.model_name AS to_model,
       CASE WHEN r.previous_index_id IS NOT NULL THEN 100 ELSE coalesce(r.share, 0) / 10000.0 END AS percent,
       m.embedded_rows, m.reused_rows, m.spent_usd, m.reason, m.created_at, m.changed_at
FROM migrations m
JOIN collections c ON c.id = m.collection_id
JOIN indexes s ON s.id = m.source_index_id
JOIN embedding_models sm ON sm.id = s.model_id
LEFT JOIN indexes t ON t.id = m.target_index_id
LEFT JOIN embedding_models tm ON tm.id = t.model_id
LEFT JOIN routes r ON r.collection_id = m.collection_id AND r.tenant = m.tenant AND r.salt = m.id::text;

CREATE FUNCTION chunks_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reshelve.outbox (chunking_id, chunk_id, kind) SELECT chunking_id, id, 'added' FROM added;
    RETURN NULL;
END $$;

CREATE FUNCTION chunks_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reshelve.outbox (chunking_id, chunk_id, kind) SELECT chunking_id, id, 'removed' FROM removed;
    RETURN NULL;
END $$;

CREATE FUNCTION chunks_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reshelve.outbox (kind) VALUES ('truncated');
    RETURN NULL;
END $$;

CREATE FUNCTION chunks_are_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.document_id, NEW.chunking_id, NEW.content_hash, NEW.content)
        IS DISTINCT FROM (OLD.id, OLD.document_id, OLD.chunking_id, OLD.content_hash, OLD.content) THEN
        RAISE EXCEPTION 'chunks are immutable: delete chunk % and insert another', OLD.id;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER chunks_added AFTER INSERT ON chunks REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_added();
CREATE TRIGGER chunks_removed AFTER DELETE ON chunks REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_removed();
CREATE TRIGGER chunks_truncated AFTER TRUNCATE ON chunks
    FOR EACH STATEMENT EXECUTE FUNCTION chunks_truncated();
CREATE TRIGGER chunks_are_immutable BEFORE UPDATE ON chunks
    FOR EACH ROW EXECUTE FUNCTION chunks_are_immutable();
ALTER TABLE chunks ENABLE ALWAYS TRIGGER chunks_added;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER chunks_removed;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER chunks_truncated;
ALTER TABLE chunks ENABLE ALWAYS TRIGGER chunks_are_immutable;

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
