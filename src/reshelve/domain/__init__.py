"""Rules without I/O: no await, no database, no clock."""
