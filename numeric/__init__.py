"""numeric: evaluates, samples, trains and compares what icltheory derives."""
