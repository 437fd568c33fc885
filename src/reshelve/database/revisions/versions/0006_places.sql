-- Columns with constant defaults: no row is rewritten, whatever the size of the table.
ALTER TABLE documents ADD COLUMN sections jsonb NOT NULL DEFAULT '[]';
ALTER TABLE chunks ADD COLUMN place jsonb NOT NULL DEFAULT '{}';
ALTER TABLE chunkings
    ADD COLUMN min_chunk_size integer NOT NULL DEFAULT 0,
    ADD COLUMN csv_chunk_tokens integer,
    ADD COLUMN csv_chunk_max_tokens integer,
    ADD COLUMN pdf_chunk_tokens integer,
    ADD COLUMN pdf_chunk_max_tokens integer;
