"""The command ``vq``; each subcommand is imported only when it is called."""
