"""Building blocks that know nothing of videos: attention, norms, rotary embedding, MLPs."""
