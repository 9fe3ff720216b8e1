"""Networks of this package: small ones to train from scratch, and the two from the paper."""
