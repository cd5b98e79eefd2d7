"""One token of one row on a CPU, compiled (numba): whatever passes it from its number to its logits
without a return to Python. What belongs together is found in `mixers` under `*_fused`.

Nothing here is imported before it is needed: compiling takes seconds once, and is kept on disk.

| read | for |
| --- | --- |
| `dots`, `gather` | a weight times one vector, as fast as memory is read |
| `crew` | threads that share a token's work |
| `layers` | stages that a token passes, by their addresses |
| `embed`, `first_values`, `head` | where the way begins and ends |
| `block`, `rwkv4`, `rwkv6`, `rwkv7` | layers |
| `attention`, `latent`, `feed_forward`, `experts` | what a Transformer's block calls |
| `attend`, `matrix_state`, `shift` | what several of them share |
| `vectors` | norms, exponentials, reading and writing of vectors |
| `shorten` | copies of fp32 weights that are numbers of 16 bits |
"""
