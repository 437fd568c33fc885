"""The room where documents come in: read, cut into chunks, and written with them in one transaction."""
