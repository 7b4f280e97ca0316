"""What a log folder holds, and how it is shown and checked, from its files alone and without torch."""
