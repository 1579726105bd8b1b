"""HetCache itself (arXiv 2603.24260): its manager and the token selection behind its partial steps."""
