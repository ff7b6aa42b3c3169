"""What each output was made of: documents, their chain, its tree and diagram."""
