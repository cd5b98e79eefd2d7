"""Reading and writing weights: memory-mapped, tensor by tensor, atomic."""
