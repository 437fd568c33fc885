"""From a question to an answer that names the passages it rests on."""
