"""Text: the tokenizer, formatting, and arrays of messages."""
