"""Whether a challenger takes a champion's place: pure decisions on recorded figures."""
