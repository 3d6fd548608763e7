"""What the project is held against: written once as a user would, tuned by the rows, and then left alone."""
