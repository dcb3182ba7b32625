"""One thin file per thing that a person or a cluster submits."""
