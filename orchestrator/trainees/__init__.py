"""What the training loop trains, one kind of network per file."""
