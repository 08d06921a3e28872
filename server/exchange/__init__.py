"""One HTTP request and its answer, for any route: caller, body, query, errors, record."""
