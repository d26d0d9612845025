"""Files of batches: what is known of each, who may read it, how long it is kept."""
