"""config.json -> parameters, FLOPs, memory; with a GPU's numbers -> pages per second and cost.

Arithmetic from shapes alone: nothing is loaded, nothing is run. Standard library only.
"""
