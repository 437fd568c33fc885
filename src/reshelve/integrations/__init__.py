"""Other people's frameworks, on the client of the service. Each needs an extra: `pip install '.[langchain]'`."""
