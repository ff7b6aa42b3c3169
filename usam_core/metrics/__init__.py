"""How good labels are: scores against truth, and the statistics that the gate compares."""
