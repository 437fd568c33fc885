"""From a question to passages: query, route, embedding, search, results."""
