"""What shells and pagers show of maglev0: manual pages and completion."""
