"""The HTTP service of `asd serve`: a door that no upload can break, and scorers on Ray Serve behind it."""
