"""What a run is asked to do: knobs, arguments, command line, and checks of them."""
