"""The machines: what requests, KV blocks, steps, host pages and copies may do.

Read vocabulary, request, block, step, copy and prefix_tree in this order, then `spec/claims`.
"""
