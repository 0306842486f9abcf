"""The video language model: ViT, connector, LLM, and the model that joins them."""
