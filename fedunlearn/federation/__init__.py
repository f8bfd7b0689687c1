"""What a round is: questions, answers, cohorts, costs, and what carries them."""
