"""How good the answers are: judged queries, retrieval metrics, and paired statistics between two indexes."""
