"""What methods are made of: the contract, mixtures, soft labels, drift factors."""
