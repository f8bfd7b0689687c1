"""Rounds: questions, answers, cohorts and costs, and the transports that carry them."""
