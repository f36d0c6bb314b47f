"""How far apart two labelled clouds of points are: indices, scores, intervals, trends. numpy only,
and scikit-learn where it has the better algorithm; no model, no file."""
