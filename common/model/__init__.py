"""The network, the diffusion model, training it, and sampling from it."""
