"""`maglev0 simulate`: what sizes, weights, joins and leaves would move."""
