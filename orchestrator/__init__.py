"""What runs where and in what order, and what is kept."""
