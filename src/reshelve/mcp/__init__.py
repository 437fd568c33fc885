"""The Model Context Protocol: searches and answers as tools for other people's assistants."""
