"""Heads: what turns a backbone's features into one score. Each is fitted on comparisons and saved as plain tensors."""
