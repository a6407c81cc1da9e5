"""What a person starts: each file is a command line, from its flags to its exit status."""
