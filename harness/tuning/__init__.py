"""`bench tune`: many trainings of one recipe with other values, the best of them, and its worth."""
