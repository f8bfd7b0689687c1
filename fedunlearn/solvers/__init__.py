"""Linear algebra that knows no federation: Krylov bases and cubic steps."""
