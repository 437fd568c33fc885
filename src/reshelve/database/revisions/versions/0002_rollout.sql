-- A route a tenant, with a candidate and its share.
CREATE SEQUENCE route_epochs;
SELECT setval('route_epochs', greatest((SELECT max(epoch) FROM routes), 1));
ALTER TABLE routes
    ADD COLUMN tenant text NOT NULL DEFAULT '',
    ADD COLUMN candidate_index_id integer REFERENCES indexes,
    ADD COLUMN previous_index_id integer REFERENCES indexes,
    ADD COLUMN share integer NOT NULL DEFAULT 0 CHECK (share BETWEEN 0 AND 1000000),
    ADD COLUMN salt text NOT NULL DEFAULT '',
    ADD COLUMN sticky_by text NOT NULL DEFAULT 'user' CHECK (sticky_by IN ('user', 'session', 'tenant')),
    ALTER COLUMN epoch SET DEFAULT nextval('route_epochs'),
    DROP CONSTRAINT routes_pkey,
    ADD PRIMARY KEY (collection_id, tenant);

ALTER TABLE migrations
    ADD COLUMN steps jsonb,
    ADD COLUMN driven_by text NOT NULL DEFAULT 'person' CHECK (driven_by IN ('person', 'service')),
    ADD COLUMN step_since timestamptz,
    ADD COLUMN evidence jsonb NOT NULL DEFAULT '{}';

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

DROP VIEW embedding_migration_status;
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

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'reshelve_service') THEN
        GRANT SELECT ON ALL TABLES IN SCHEMA reshelve TO reshelve_service;
        GRANT INSERT, UPDATE, DELETE ON figures, circuit_breakers, recent_queries, feedback, alerts, idempotency_keys
            TO reshelve_service;
    END IF;
END $$;
