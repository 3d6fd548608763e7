from .program import command as command
