"""The network, its backbones and its checkpoints."""
