"""What every room uses: how scripts talk and end, the machine, files."""
