"""One request and its answer, whatever it is for: body, query, answer."""
