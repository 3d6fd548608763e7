"""Holds the peers that the project is compared with: written as a user would write them, and tuned by the rows."""
