"""Networks that somebody else made, on real data, for users whom they have not seen."""
