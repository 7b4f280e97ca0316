"""What every room uses: messages and exit status of scripts, the machine, files."""
