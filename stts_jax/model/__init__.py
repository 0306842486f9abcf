"""The video language model: ViT, connector, LLM, what joins them, and generation."""
