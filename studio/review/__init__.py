"""The take report: one HTML file that opens offline and says how far a take can be trusted."""
