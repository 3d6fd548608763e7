from .program import command as command, main as main
