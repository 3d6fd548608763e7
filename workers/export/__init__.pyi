from .graph import Combining as Combining, EnsembleGraph as EnsembleGraph, write_graphs as write_graphs
