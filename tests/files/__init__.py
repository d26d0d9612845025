"""Files of keys: records, quota, retention."""
