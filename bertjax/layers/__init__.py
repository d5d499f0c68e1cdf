"""The parts every encoder is made of, one idea a file."""
